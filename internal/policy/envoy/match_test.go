package envoy_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
)

// A rule is a configured descriptor, in the form that naive reads.
type rule struct {
	key, value string
	limit      int // requests in a second; 0: no limit
	below      []rule
}

// naive does what the documentation says, slowly. It returns which limit applies to
// entries, or 0.
func naive(rules []rule, entries []envoy.Entry) int {
	if len(entries) == 0 {
		return 0
	}
	e := entries[0]
	for _, matches := range []func(rule) bool{
		func(r rule) bool { return r.value != "" && r.key == e.Key && r.value == e.Value },
		func(r rule) bool {
			switch {
			case strings.Contains(r.key, "*") && r.value == "":
				return globbed(r.key, e.Key+"_"+e.Value)
			case strings.Contains(r.key, "*"):
				return globbed(r.key+"_"+r.value, e.Key+"_"+e.Value)
			default:
				return r.key == e.Key && strings.Contains(r.value, "*") && globbed(r.value, e.Value)
			}
		},
		func(r rule) bool { return r.key == e.Key && r.value == "" },
	} {
		for _, r := range rules {
			if !matches(r) {
				continue
			}
			if len(entries) == 1 {
				return r.limit
			}
			return naive(r.below, entries[1:])
		}
	}
	return 0
}

// globbed reports whether s matches pattern, in which * stands for any bytes.
func globbed(pattern, s string) bool {
	return regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$").MatchString(s)
}

// write writes rules as a file.
func write(b *strings.Builder, indent string, rules []rule) {
	for _, r := range rules {
		fmt.Fprintf(b, "%s- key: %q\n%s  value: %q\n", indent, r.key, indent, r.value)
		if r.limit > 0 {
			fmt.Fprintf(b, "%s  rate_limit: {unit: second, requests_per_unit: %d}\n", indent, r.limit)
		}
		if len(r.below) > 0 {
			fmt.Fprintf(b, "%s  descriptors:\n", indent)
			write(b, indent+"    ", r.below)
		}
	}
}

func TestMatchIsNaive(t *testing.T) {
	keys, values := rapid.SampledFrom([]string{"a", "a_b", "b", "a*", "*b"}), rapid.SampledFrom([]string{"", "x", "xy", "x*", "*", "b_x", "xyz", "x*z", "*y*", "x_b"})
	rapid.Check(t, func(rt *rapid.T) {
		count := 0
		var draw func(depth int) []rule
		draw = func(depth int) []rule {
			var rules []rule
			seen := map[envoy.Entry]bool{}
			for range rapid.IntRange(0, 5).Draw(rt, "rules") {
				r := rule{key: keys.Draw(rt, "key"), value: values.Draw(rt, "value")}
				if seen[envoy.Entry{Key: r.key, Value: r.value}] {
					continue
				}
				seen[envoy.Entry{Key: r.key, Value: r.value}] = true
				if rapid.Bool().Draw(rt, "limited") {
					count++
					r.limit = count
				}
				if depth < 2 {
					r.below = draw(depth + 1)
				}
				rules = append(rules, r)
			}
			return rules
		}
		rules := draw(0)
		var b strings.Builder
		b.WriteString("domain: d\ndescriptors:\n")
		write(&b, "", rules)
		c := mustRead(t, b.String())
		for range 20 {
			entries := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) envoy.Entry {
				return envoy.Entry{Key: keys.Draw(rt, "key"), Value: values.Draw(rt, "value")}
			}), 0, 4).Draw(rt, "entries")
			got := 0
			if m := c.Match("d", entries); m.Limit != nil {
				got = int(m.Parts[0].RequestsPerUnit)
			}
			if want := naive(rules, entries); got != want {
				rt.Fatalf("%q: limit %d, want %d, of\n%s", entries, got, want, b.String())
			}
		}
	})
}
