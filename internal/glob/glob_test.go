package glob_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/glob"
)

// TestMatch holds Match to a regular expression that says the same.
func TestMatch(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		pattern := rapid.StringOfN(rapid.SampledFrom([]rune("ab*")), 0, 8, -1).Draw(rt, "pattern")
		s := rapid.StringOfN(rapid.SampledFrom([]rune("ab*")), 0, 12, -1).Draw(rt, "s")
		parts := strings.Split(pattern, "*")
		quoted := make([]string, len(parts))
		for i, part := range parts {
			quoted[i] = regexp.QuoteMeta(part)
		}
		want := regexp.MustCompile("^" + strings.Join(quoted, ".*") + "$").MatchString(s)
		if got := glob.Match(parts, s); got != want {
			rt.Fatalf("%q matches %q: %t, want %t", pattern, s, got, want)
		}
	})
}
