package policy

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestBestMatch(t *testing.T) {
	for _, tt := range []struct {
		patterns   string // in order
		identifier string
		want       string // "": none
	}{
		{"* a* ab* abc", "abc", "abc"},
		{"* a* ab* abc", "abd", "ab*"},
		{"* a* ab* abc", "ac", "a*"},
		{"* a* ab* abc", "", "*"},
		{"a*", "ba", ""},
		{"*c a*", "abc", "*c"}, // of two with one byte, the first
		{"a* *c", "abc", "a*"},
		{"*bc a*", "abc", "*bc"},
		{"a*c *", "ac", "a*c"},
		{"a*a", "a", ""},
		{"a*b*c", "a-b-b-c", "a*b*c"},
		{"a*b*c", "a-c", ""},
		{"a**c", "abc", "a**c"},
		{`a\*`, "a*", `a\*`},
		{`a\*`, "ab", ""},
		{`a\**`, "a*b", `a\**`},
		{`a\\*`, `a\b`, `a\\*`},
		{"10.0.0.0/8 10.1.0.0/16 *", "10.1.2.3", "10.1.0.0/16"},
		{"10.0.0.0/8 10.1.0.0/16 *", "10.2.2.3", "10.0.0.0/8"},
		{"10.0.0.0/8 10.1.0.0/16 *", "11.2.2.3", "*"},
		{"10.0.0.0/8 10.1.2.*", "10.1.2.3", "10.0.0.0/8"}, // an address is first of all an address
		{"10.0.0.7 10.0.0.0/8", "10.0.0.7", "10.0.0.7"},
		{"10.0.0.0/8", "10.0.0.0/8", ""}, // no address
		{"0.0.0.0/0 ::/0", "1.2.3.4", "0.0.0.0/0"},
		{"0.0.0.0/0 ::/0", "::1", "::/0"},
		{"0.0.0.0/0 ::/0", "fe80::1%eth0", "::/0"},
		{"0.0.0.0/0 ::/0", "::ffff:1.2.3.4", "0.0.0.0/0"},
		{"2001:db8::/32 2001:db8::1", "2001:0db8:0:0::1", "2001:db8::1"},
		{"0.0.0.0/0", "1.2.3", ""},
		{"é*", "éa", "é*"},
		{`::ffff:10.0.0.0/104`, "10.1.2.3", `::ffff:10.0.0.0/104`},
		{`10.0.0.0\/33`, "10.0.0.0/33", `10.0.0.0\/33`},
		{`10.0.0.0\/8`, "10.1.2.3", ""}, // an identifier
		{`10.0.0.0\/8`, "10.0.0.0/8", `10.0.0.0\/8`},
		{`10\.0.0.7 10.0.0.7`, "10.0.0.7", `10\.0.0.7`},
		{`10\.0.0.7`, "::ffff:10.0.0.7", ""},
		{`10.0.0.\*`, "10.0.0.*", `10.0.0.\*`},
	} {
		var p patterns[string]
		for pattern := range strings.FieldsSeq(tt.patterns) {
			if err := p.add(pattern, pattern); err != nil {
				t.Fatal(err)
			}
		}
		if got, ok := p.match(tt.identifier); got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: %q is matched by %q, want %q", tt.patterns, tt.identifier, got, tt.want)
		}
	}
}

// TestLookalikes holds what looks like an address or a network and is neither
// to be refused, and what is likely to be an identifier to be taken as one.
func TestLookalikes(t *testing.T) {
	add := func(pattern string) error {
		var p patterns[string]
		return p.add(pattern, pattern)
	}
	for pattern, want := range map[string]string{
		"10.0.0.0/33":         `"10.0.0.0/33" is not a network; write one such as "10.0.0.0/8" or "2001:db8::/32", or, if it is an identifier, \/ for the slash`,
		"300.1.2.3/8":         "is not a network",
		"10.0.0.0/":           "is not a network",
		"10.0/16":             "is not a network",
		"10.0.0/24":           "is not a network",
		"10.0.0.0/08":         "is not a network",
		"10.0.0.0/255.0.0.0":  "is not a network",
		" 10.0.0.0/8":         "is not a network",
		"10.0.0.0 / 8":        "is not a network",
		"2001:db8::/129":      "is not a network",
		"2001:db8/32":         "is not a network",
		"[2001:db8::]/32":     "is not a network",
		"fe80::1%eth0/64":     "is not a network",
		"2001:db8::1::/48":    "is not a network",
		"300.1.2.3":           `"300.1.2.3" is not an IP address; write one such as "10.0.0.7", or, if it is an identifier, \. for a dot`,
		"10.0.0.01":           "is not an IP address",
		"10.0.0.":             "is not an IP address",
		"10.0.0.7 ":           "is not an IP address",
		"2001:db8::1::2":      `"2001:db8::1::2" is not an IP address; write one such as "2001:db8::1", or, if it is an identifier, \: for a colon`,
		"2001:db8::12345":     "is not an IP address",
		"::ffff:300.1.2.3":    "is not an IP address",
		"2001:db8:::1":        "is not an IP address",
		"10.0.0.7\\/x\\":      "a backslash stands before",
		"::ffff:10.0.0.7/104": `has bits beyond its prefix length; write "10.0.0.0/8"`,
	} {
		if err := add(pattern); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", pattern, err, want)
		}
	}
	for _, pattern := range []string{
		"10/30", "a/b", "user:42/7", "1.2.3/x", "10.0.0.7/login", "10.0.0.7/8/9", "v1.2/3", "/", "/8", "a.b/8", "path=/v1.0/2",
		"1.2.3", "1.2.3.4.5", "300", "1.2", "10.0.0.7:8080", "02:00:5e:10:00:01", "12:30", "user::42", "[::1]", "::x", "10.0.0.*", "10.0.0.*/33", ".",
		`10.0.0.0\/33`, `300\.1.2.3`, `2001:db8:\:1::2`, `\\`,
	} {
		if err := add(pattern); err != nil {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}

func TestCanonical(t *testing.T) {
	for _, same := range [][]string{
		{"10.0.0.7", "10.0.0.7/32", "::ffff:10.0.0.7", "::ffff:10.0.0.7/128"},
		{`10\.0.0.7`, `10.0.0\.7`},
		{`10.0.0.7\/32`},
		{"a**b", "a*b"},
		{`a\**`, `a\***`},
		{`a\*`},
		{`a\.b`, "a.b"},
		{`a\\*`},
		{"2001:DB8::1", "2001:db8:0::1"},
	} {
		first := canonical(same[0])
		for _, pattern := range same {
			if canonical(pattern) != first {
				t.Errorf("%q and %q match the same, and differ: %q and %q", same[0], pattern, first, canonical(pattern))
			}
		}
	}
	apart := []string{"10.0.0.7", `10\.0.0.7`, `10.0.0.7\/32`, "a*b", `a\*b`, `a\\*b`, `a\\b`, "a", "*", `\*`, `\\`}
	for i, a := range apart {
		for _, b := range apart[:i] {
			if canonical(a) == canonical(b) {
				t.Errorf("%q and %q differ, and are taken for the same", a, b)
			}
		}
	}
}

// TestGlobs holds globs to regular expressions, and the best to a search of all.
func TestGlobs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune(`ab*\`)), 1, 6, -1)
		all := rapid.SliceOfNDistinct(text.Filter(func(s string) bool { _, err := cut(s); return err == nil }), 1, 8, canonical).Draw(rt, "patterns")
		var p patterns[string]
		for _, pattern := range all {
			if err := p.add(pattern, pattern); err != nil {
				rt.Fatalf("%q: %v", pattern, err)
			}
		}
		identifier := rapid.StringOfN(rapid.SampledFrom([]rune(`ab*\`)), 0, 8, -1).Draw(rt, "identifier")
		best, bestLiteral := "", -1
		for _, pattern := range all {
			parts, _ := cut(pattern)
			quoted := slices.Clone(parts)
			for i := range quoted {
				quoted[i] = regexp.QuoteMeta(quoted[i])
			}
			if !regexp.MustCompile(`\A` + strings.Join(quoted, `(?s:.*)`) + `\z`).MatchString(identifier) {
				continue
			}
			literal := len(strings.Join(parts, ""))
			if len(parts) == 1 {
				literal = 1 << 20 // itself
			}
			if literal > bestLiteral {
				best, bestLiteral = pattern, literal
			}
		}
		got, ok := p.match(identifier)
		if ok != (bestLiteral >= 0) {
			rt.Fatalf("%q: %q matched: %v, want %q", all, identifier, ok, best)
		}
		gotParts, _ := cut(got)
		if ok && len(gotParts) > 1 && len(strings.Join(gotParts, "")) != bestLiteral {
			rt.Fatalf("%q: %q is matched by %q, want %q", all, identifier, got, best)
		}
	})
}
