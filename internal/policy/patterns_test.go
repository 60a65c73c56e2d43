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
