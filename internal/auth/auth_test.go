package auth

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
)

func parse(t *testing.T, text string) *Directory {
	t.Helper()
	d, err := Parse("clients.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestParse reads files that are wrong.
func TestParse(t *testing.T) {
	hash := HashLine("a token")
	const long = "rld_abcdefghijklmnopqrstuvwxyzabcdefghijklmnopq"
	for _, tt := range []struct{ text, says string }{
		{"", `:1:1: nothing is in this file; to know no clients, write "clients: []"`},
		{"{}", `there is no key "clients"`},
		{"client: []", `unknown key "client"; did you mean "clients"?`},
		{"clients: {name: a}", `where a list is wanted`},
		{"clients: [{tokens: [" + hash + "], namespaces: [a]}]", `this client has no name`},
		{"clients: [{name: '', tokens: [" + hash + "], namespaces: [a]}]", `name "" has 0 bytes; give it 1 to 128`},
		{"clients: [{name: a, namespaces: [a]}]", `client "a" has neither tokens nor certificates`},
		{"clients: [{name: a, tokens: [" + hash + "]}]", `client "a" has no namespaces`},
		{"clients: [{name: a, tokens: [" + long + "], namespaces: [a]}]", `this is not sha256: and 64 hex digits, but 47 characters`},
		{"clients: [{name: a, tokens: [sha256:" + long + "], namespaces: [a]}]", `but 54 characters`},
		{"clients: [{name: a, tokens: [" + hash + "0], namespaces: [a]}]", `but 72 characters`},
		{"clients: [{name: a, tokens: [" + hash + ", " + hash + "], namespaces: [a]}]", `this token is already on line 1`},
		{"clients:\n- {name: a, tokens: [" + hash + "], namespaces: [a]}\n- {name: a, certificates: [b], namespaces: [a]}", `:3:10: client "a" is already on line 2`},
		{"clients: [{name: a, certificates: [b], namespaces: ['a*b']}]", `"a*b": a * stands only at the end`},
		{"clients: [{name: a, certificates: [b], namespaces: ['']}]", `"" matches nothing`},
		{"clients: [{name: a, certificates: [b], namespaces: [a], operations: [resett]}]", `unknown operation "resett"; did you mean "reset"?`},
		{"clients: [{name: a, certificates: [b], namespaces: [a], operations: [admin]}]", `client "a": operation admin is about the whole daemon; give it namespaces: ["*"]`},
		{"clients: [{name: a, certificates: [b], namespaces: ['*'], policies: [p], operations: [inspect]}]", `operation inspect is about the whole daemon`},
		{"clients: [{name: a, certificates: [b, B], namespaces: [a]}]", `"B" is there twice`},
		{"clients: [{name: a, certificates: ['*.example.org'], namespaces: [a]}]", `is neither a DNS name nor a URI`},
		{"clients: [{name: a, certificates: ['me@example.org'], namespaces: [a]}]", `is neither a DNS name nor a URI`},
		{"clients: [{name: a, certificates: ['spiffe:/a'], namespaces: [a]}]", `"spiffe:/a" is not a URI`},
		{"clients: [{name: a, certificates: ['spiffe://example.org/shop*'], namespaces: [a]}]", `a * stands only at the end of a SPIFFE ID and after a slash`},
		{"clients: [{name: a, certificates: ['https://example.org/*'], namespaces: [a]}]", `a * stands only at the end of a SPIFFE ID`},
		{"clients: [{name: a, certificates: ['spiffe://*'], namespaces: [a]}]", `a * stands only at the end of a SPIFFE ID`},
		{"clients: [{name: a, certificates: ['spiffe://e/a/*', 'spiffe://e/a/*'], namespaces: [a]}]", `is there twice`},
		{"clients: [{name: a, burst: 3}]", `unknown key "burst"`},
	} {
		_, err := Parse("clients.yaml", []byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %s", tt.text, err, tt.says)
		}
		if err != nil && strings.Contains(err.Error(), long) {
			t.Errorf("%s: the error has the token: %v", tt.text, err)
		}
	}
	if d := parse(t, "clients: []"); d.Clients() != 0 || !d.NeedsCertificate() {
		t.Error("a list of nobody has somebody")
	}
}

func TestFind(t *testing.T) {
	long := strings.Repeat("a", maxTokenBytes)
	d := parse(t, `
clients:
  - {name: a, tokens: [`+HashLine("one")+`, `+HashLine("two")+`], namespaces: [a]}
  - {name: b, tokens: [`+HashLine("three")+`, `+HashLine(long)+`, `+HashLine(long+"a")+`], namespaces: [a]}
  - {name: c, certificates: ["spiffe://example.org/*", c.example.org, "https://c.example.org/x"], namespaces: [a]}
  - {name: d, certificates: ["spiffe://example.org/d/*"], namespaces: [a]}
`)
	for header, want := range map[string]string{
		"Bearer one": "a", "bearer two": "a", "BEARER three": "b", "Bearer " + long: "b",
		"Bearer " + long + "a": "", "Bearer four": "", "Bearer ": "", "Bearer": "", "one": "", "Bearer  one": "", "Bearer one ": "", "Basic one": "", "": "",
	} {
		c, err := d.Find(header, nil)
		if name := nameOf(c); name != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%.20q: %s, %v, want %s", header, name, err, want)
		}
	}
	ca := authtest.NewAuthority(t, "a")
	for san, want := range map[string]string{
		"c.example.org": "c", "C.EXAMPLE.ORG": "c", "example.org": "", "x.c.example.org": "", "https://c.example.org/x": "c", "https://c.example.org/y": "",
		"spiffe://example.org/x": "c", "spiffe://example.org/d/x": "d", "spiffe://example.org/d": "c", "spiffe://example.org": "", "spiffe://example.org.attacker.example/d": "",
		"spiffe://example.org/a//b": "", "spiffe://example.org/x/../d/y": "", "spiffe://example.org/%2e%2e/d": "",
	} {
		c, err := d.Find("", ca.Issue(t, san).Leaf(t))
		if nameOf(c) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v, want %s", san, nameOf(c), err, want)
		}
	}
}

func nameOf(c *Caller) string {
	if c == nil {
		return ""
	}
	return c.Name()
}

func TestCheck(t *testing.T) {
	d := parse(t, `
clients:
  - {name: a, tokens: [`+HashLine("a")+`], namespaces: [checkout, "cart-*"], policies: ["gold*", silver], operations: [decide, charge]}
  - {name: b, tokens: [`+HashLine("b")+`], namespaces: ["*"], operations: [refund]}
`)
	a, _ := d.Find("Bearer a", nil)
	b, _ := d.Find("Bearer b", nil)
	for _, tt := range []struct {
		caller            *Caller
		o                 Operation
		namespace, policy string
		want              Reason // reasonCount: none
	}{
		{a, Decide, "checkout", "gold", reasonCount},
		{a, Charge, "cart-", "golden", reasonCount},
		{a, Charge, "cart-eu", "silver", reasonCount},
		{a, Refund, "checkout", "gold", ForbiddenOperation},
		{a, Decide, "Checkout", "gold", ForbiddenNamespace},
		{a, Decide, "checkout2", "gold", ForbiddenNamespace},
		{a, Decide, "cart", "gold", ForbiddenNamespace},
		{a, Decide, "", "gold", ForbiddenNamespace},
		{a, Decide, "checkout", "silver2", ForbiddenPolicy},
		{a, Decide, "checkout", "", ForbiddenPolicy}, // limits of its own
		{b, Refund, "", "", reasonCount},
		{b, Decide, "checkout", "", ForbiddenOperation},
		{nil, Decide, "checkout", "", NoCredentials},
		{Anonymous(Decide), Decide, "checkout", "", reasonCount},
		{Anonymous(Decide), Reset, "checkout", "", ForbiddenOperation},
	} {
		err := tt.caller.Check(tt.o, tt.namespace, tt.policy)
		if tt.want == reasonCount {
			if err != nil {
				t.Errorf("%v %q %q: %v", tt.o, tt.namespace, tt.policy, err)
			}
			continue
		}
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok || refusal.Reason != tt.want || errors.Is(err, ErrForbidden) == (tt.caller == nil) {
			t.Errorf("%v %q %q: %v, want %v", tt.o, tt.namespace, tt.policy, err, tt.want)
		}
	}
}

// TestContext holds that who asks is found under contexts of others, and costs one
// allocation.
func TestContext(t *testing.T) {
	type key struct{}
	caller := Anonymous(Decide)
	ctx := context.WithValue(NewContext(context.WithValue(t.Context(), key{}, 1), caller), contextKey{}, caller)
	if FromContext(ctx) != caller || ctx.Value(key{}) != 1 || FromContext(t.Context()) != nil {
		t.Error("the caller is not found")
	}
	if n := testing.AllocsPerRun(100, func() { _ = FromContext(NewContext(t.Context(), caller)) }); n > 1 {
		t.Errorf("%v allocations, want 1", n)
	}
}

// FuzzParse feeds the reader whatever may be in a file.
func FuzzParse(f *testing.F) {
	f.Add([]byte("clients: [{name: a, tokens: ['" + HashLine("a") + "'], certificates: ['spiffe://a/b/*'], namespaces: [a], policies: ['*'], operations: [decide]}]"))
	f.Add([]byte("clients: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse("clients.yaml", data)
		if (d == nil) == (err == nil) {
			t.Fatalf("%v, %v", d, err)
		}
		if err == nil {
			_, _ = d.Find("Bearer a", nil)
		}
	})
}

// FuzzFind shows any authorization header. Only that of the one token is known.
func FuzzFind(f *testing.F) {
	const token = "a token"
	d, err := Parse("clients.yaml", []byte("clients: [{name: a, tokens: ['"+HashLine(token)+"'], namespaces: [a]}]"))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "Bearer " + token, "bearer  " + token, "Basic x", "Bearer", "BEARER \xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authorization string) {
		caller, err := d.Find(authorization, nil)
		if (caller == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", authorization, caller, err)
		}
		if caller != nil && !strings.HasSuffix(strings.TrimSpace(authorization), token) {
			t.Errorf("%q is known", authorization)
		}
	})
}
