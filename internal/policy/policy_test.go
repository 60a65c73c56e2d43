package policy_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

func read(data string) (*policy.Config, error) {
	f, root := yamlfile.Parse("p.yaml", []byte(data))
	c := policy.Read(root, strategy.DefaultMaxLogCount)
	return c, f.Err()
}

func mustRead(tb testing.TB, data string) *policy.Config {
	tb.Helper()
	c, err := read(data)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

const example = `
checkout:
  on_error: deny
  exempt: ["internal-*", "10.0.0.0/8", root]
  policies:
    default:
      limits:
        - {name: burst, rate: 50/s, strategy: token_bucket, burst: 100}
        - {name: daily, rate: 100_000/day}
        - {name: billed, rate: 2_000_000/month, time_zone: Europe/Berlin, anchor_day: 15}
      overrides:
        - {identifiers: ["partner-*"], limits: [{name: burst, rate: 500/s, strategy: token_bucket}]}
        - identifiers: ["partner-7", 192.168.0.0/16]
          shadow: true
          limits: [{rate: unlimited}]
    search:
      shadow: true
      limits: [{rate: 10/s, strategy: SLIDING_WINDOW_COUNTER}, {rate: 5/min, shadow: false}]
governed:
  policies_only: true
`

// describe lists limits in a short form.
func describe(limits []strategy.Limit) string {
	var all []string
	for _, l := range limits {
		text := fmt.Sprintf("%s %s%s %d", l.Strategy, l.Rate, l.AppendCalendar(nil), l.Capacity)
		if l.Name != "" {
			text = l.Name + "=" + text
		}
		if l.Shadow {
			text += " shadow"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func TestRead(t *testing.T) {
	c := mustRead(t, example)
	checkout, governed := c.Namespace("checkout"), c.Namespace("governed")
	if checkout.OnError(policy.FailAllow) != policy.FailDeny || governed.OnError(policy.FailError) != policy.FailError {
		t.Error("on_error is not each namespace's own, or else the server's")
	}
	if checkout.PoliciesOnly() || !governed.PoliciesOnly() {
		t.Error("policies_only is not each namespace's own")
	}
	for identifier, want := range map[string]bool{"internal-": true, "internal-cron": true, "10.1.2.3": true, "::ffff:10.1.2.3": true, "root": true, "11.0.0.1": false, "alice": false, "": false} {
		if checkout.IsExempt(identifier) != want {
			t.Errorf("%q: exempt %v", identifier, !want)
		}
	}
	for _, q := range []struct{ policy, identifier, want string }{
		{"default", "alice", "burst=token_bucket 50/1s 100, daily=fixed_window 100000/1d 100000, billed=fixed_window 2000000/1month@15,Europe/Berlin 2000000"},
		{"default", "partner-1", "burst=token_bucket 500/1s 500"},
		{"default", "partner-7", "fixed_window unlimited 0 shadow"},
		{"default", "192.168.255.1", "fixed_window unlimited 0 shadow"},
		{"search", "alice", "sliding_window_counter 10/1s 10 shadow, fixed_window 5/1m 5"},
	} {
		if got := describe(checkout.Policy(q.policy).Limits(q.identifier)); got != q.want {
			t.Errorf("policy %s, %s: got %s, want %s", q.policy, q.identifier, got, q.want)
		}
	}
	if checkout.Policy("Default") != nil || governed.Policy("default") != nil {
		t.Error("a policy that is not there was found")
	}
}

// TestWhichPattern asks for the patterns that match.
func TestWhichPattern(t *testing.T) {
	ns := mustRead(t, `
a:
  exempt: ["10.0.0.0/8", "internal-*"]
  policies:
    p:
      limits: [{rate: 1/s}]
      overrides: [{identifiers: ["partner-*", "partner-7"], limits: [{rate: 2/s}]}]
`).Namespace("a")
	for _, tt := range []struct{ identifier, exempt, override string }{
		{"10.1.2.3", "10.0.0.0/8", ""}, {"internal-job", "internal-*", ""}, {"partner-7", "", "partner-7"}, {"partner-8", "", "partner-*"}, {"alice", "", ""},
	} {
		exempt, is := ns.Exemption(tt.identifier)
		_, override := ns.Policy("p").Match(tt.identifier)
		if exempt != tt.exempt || is != (tt.exempt != "") || override != tt.override {
			t.Errorf("%s: exempt by %q, %v, and override %q; want %q and %q", tt.identifier, exempt, is, override, tt.exempt, tt.override)
		}
	}
}

func TestNoConfiguration(t *testing.T) {
	var c *policy.Config
	ns := c.Namespace("checkout")
	if ns != nil || ns.IsExempt("alice") || ns.PoliciesOnly() || ns.Policy("default") != nil || ns.OnError(policy.FailLocal) != policy.FailLocal || len(c.Namespaces())+len(ns.Policies()) > 0 {
		t.Error("no configuration configures something")
	}
}

// TestProblems has every mistake that a configuration can have, with its place. Mistakes in
// YAML itself are tested in package yamlfile.
func TestProblems(t *testing.T) {
	limits := func(text string) string { return "a: {policies: {p: {limits: " + text + "}}}" }
	for data, want := range map[string]string{
		"- a":                                  "1:1: a list, where a mapping is wanted",
		"a: b":                                 `1:4: "b", where a mapping is wanted`,
		`"": {}`:                               `1:1: "" is not a name of a namespace, because it has 0 bytes; give it 1 to 128, as in "checkout"`,
		strings.Repeat("n", 129) + ": {}":      "it has 129 bytes",
		"a: {}\na: {}":                         `2:1: key "a" is already on line 1`,
		"a: {limits: []}":                      `1:5: unknown key "limits"; known here: exempt, on_error, policies, policies_only`,
		"a: {on_error: maybe}":                 `1:15: on_error "maybe" is not known; use allow, deny, error or local`,
		"a: {on_error: }":                      `on_error "" is not known`,
		"a: {policies_only: 1}":                `1:20: "1" is neither true nor false`,
		"a: {exempt: {b: c}}":                  "1:13: a mapping, where a list is wanted",
		"a: {exempt: [b, b]}":                  `1:17: "b" is already on line 1; leave one out`,
		"a: {exempt: ['b**', 'b*']}":           `"b*" is already on line 1`,
		"a: {exempt: [10.0.0.7, 10.0.0.7/32]}": `"10.0.0.7/32" is already on line 1`,
		"a: {exempt: [10.0.0.7/8]}":            `1:14: "10.0.0.7/8" has bits beyond its prefix length; write "10.0.0.0/8"`,
		"a: {exempt: ['']}":                    `1:14: "" matches no identifier; write an identifier, or a pattern such as "partner-*" or "10.0.0.0/8"`,
		"a: {exempt: ['b\\c']}":                `"b\\c": a backslash stands before one of * \ / . and : that means itself; for a backslash, write two`,
		"a: {exempt: [" + strings.Repeat("x", 1025) + "]}":                             "is longer than any identifier; write at most 1024 bytes",
		"a: {policies: {'': {limits: [{rate: 1/s}]}}}":                                 `"" is not a name of a policy`,
		"a: {policies: {p: }}":                                                         `1:19: a policy needs limits, as in "limits: [{rate: 100/min}]"; this one has none`,
		"a: {policies: {p: {limit: []}}}":                                              `unknown key "limit"; did you mean "limits"?`,
		limits("[]"):                                                                   "1:28: no limits; give 1 to 16, as in [{rate: 100/min}]",
		limits("{rate: 1/s}"):                                                          "1:28: a mapping, where a list is wanted",
		limits("[1/s]"):                                                                `1:29: "1/s", where a mapping is wanted`,
		limits("[{}]"):                                                                 "1:29: a limit needs a rate, as in {rate: 100/min}; this one has none",
		limits("[{rate: 1/fortnight}]"):                                                `1:36: rate "1/fortnight": unknown unit "fortnight"`,
		limits("[{rate: 1/s, strategy: fixed}]"):                                       `1:51: unknown strategy "fixed"; use fixed_window, sliding_window_counter`,
		limits("[{rate: 1/s, burst: 5}]"):                                              "1:48: burst 5: fixed_window has none; leave it out",
		limits("[{rate: 1/s, strategy: gcra, burst: -1}]"):                             `"-1" is not a whole number of 0 to 1000000000`,
		limits("[{rate: 1/s, strategy: gcra, burst: 1000000001}]"):                     `"1000000001" is over 1000000000`,
		limits("[{rate: 10001/s, strategy: sliding_window_log}]"):                      "this server caps its count at 10000",
		limits("[{name: " + strings.Repeat("n", 129) + ", rate: 1/s}]"):                "has 129 bytes; a name has at most 128",
		limits("[{rate: 1/s}, {rate: 1/sec}]"):                                         "1:42: the same limit as another of this list",
		limits("[{name: x, rate: 1/s}, {name: x, rate: 2/s}]"):                         "the same limit as another of this list",
		limits("[" + strings.Repeat("{rate: 1/s}, ", 17) + "]"):                        "1:28: 17 limits; give at most 16",
		limits("[{rate: 1/s, cost: 1}]"):                                               `unknown key "cost"; known here: anchor_day, burst, max_debt, name, rate, shadow, strategy, time_zone`,
		limits("[{rate: 1/day, time_zone: Europe/Berlim}]"):                            `1:54: time_zone "Europe/Berlim" is not known; write a name of the IANA database, such as "Europe/Berlin"`,
		limits("[{rate: 1/h, time_zone: UTC}]"):                                        `1:52: time_zone "UTC": windows of "1/h" are the same in all zones`,
		limits("[{rate: 1/month, anchor_day: 31}]"):                                    "1:57: anchor_day 31: not every month has this day; write 1 to 28",
		limits("[{rate: 1/week, anchor_day: 2}]"):                                      "1:56: anchor_day 2: only months and years begin on a day",
		limits("[{rate: 1/month, strategy: gcra}]"):                                    `1:36: rate "1/month": months and years are those of the calendar`,
		limits("[{rate: 1/s}], overrides: [{}]"):                                       "an override needs identifiers and limits",
		limits("[{rate: 1/s}], overrides: [{identifiers: [], limits: [{rate: 1/s}]}]"): `no identifiers; give some, as in ["alice", "partner-*", "10.0.0.0/8"]`,
		limits("[{rate: 1/s}], overrides: [{identifiers: [x], limits: [{rate: 1/s}]}, {identifiers: [y, x], limits: [{rate: 2/s}]}]"): `"x" is already on line 1`,
		limits("[{rate: 1/s}], overrides: [{identifiers: [x], limits: [{rate: 1/x}]}]"):                                               `unknown unit "x"`,
	} {
		_, err := read(data)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "p.yaml:1:") && !strings.HasPrefix(err.Error(), "p.yaml:2:") {
			t.Errorf("%.80s: got %v, want %s", data, err, want)
		}
	}
}

// TestAllProblemsAtOnce reads a file with several problems in several namespaces.
func TestAllProblemsAtOnce(t *testing.T) {
	_, err := read(`
a:
  on_eror: deny
  policies:
    p:
      limits:
        - {rate: 10/sec, strategy: gcar, burst: 3}
        - {rate: -1/s, burst: 3}
b:
  exempt: ["10.0.0.1/8"]
`)
	want := []string{"p.yaml:3:3: unknown key", "p.yaml:7:36: unknown strategy", "p.yaml:8:18: rate", "p.yaml:8:31: burst 3: fixed_window has none", "p.yaml:10:12: "}
	if err == nil || strings.Count(err.Error(), "p.yaml:") != len(want) {
		t.Fatalf("got\n%v\nwant %d problems", err, len(want))
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got\n%v\nwant %s", err, w)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(example)
	for _, seed := range []string{
		"a: {exempt: ['*\\*', '\\']}",
		"a: {exempt: [10.0.0.0/33, 10.0.0.0/, 300.1.2.3, '2001:db8::/129', '::ffff:10.0.0.0/104', '10.0.0.0\\/33', 'fe80::1%eth0/64']}",
		"a: &a {policies: {p: &p {limits: &l [{rate: 1/s}], overrides: [{identifiers: [x], limits: *l}]}, q: *p}}\nb: *a",
		"a: &a\n  <<: *a\n  policies: *a",
		"a: {policies: {p: }, on_error: , exempt: , policies_only: }",
		"a: {policies: {p: {limits: [{name: , rate: , strategy: , burst: }], overrides: [{}, ~, []], shadow: }}}",
		"a: " + strings.Repeat("[", 100) + strings.Repeat("]", 100),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		c, err := read(data)
		if err != nil {
			return
		}
		for name, ns := range c.Namespaces() { // whatever is accepted can be used
			ns.IsExempt(data)
			for _, p := range ns.Policies() {
				limits := p.Limits(data)
				if len(limits) == 0 || len(limits) > strategy.MaxLimits {
					t.Errorf("namespace %q: %d limits", name, len(limits))
				}
				var d strategy.Decision
				d.Decide(limits, make([]strategy.State, len(limits)), strategy.Ask{Cost: math.MaxUint64, Now: 1})
			}
		}
	})
}

// many returns a namespace that exempts 1,000 patterns of each kind.
func many(tb testing.TB) *policy.Namespace {
	var b strings.Builder
	b.WriteString("a:\n  exempt:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - user-%d\n  - team-%d-*\n  - 10.%d.%d.0/24\n", i, i, i/256, i%256)
	}
	return mustRead(tb, b.String()).Namespace("a")
}

func BenchmarkExempt(b *testing.B) {
	ns := many(b)
	for name, identifier := range map[string]string{"exact": "user-500", "prefix": "team-500-x", "CIDR": "10.2.2.9", "none": "somebody else", "none, an address": "2001:db8::1"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ns.IsExempt(identifier)
			}
		})
	}
}
