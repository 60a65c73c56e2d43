package spelling_test

import (
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/spelling"
)

func TestHint(t *testing.T) {
	policy := []string{"limits", "overrides", "shadow"}
	many := strings.Fields("aaa bbb ccc ddd eee fff ggg hhh iii jjj")
	for _, tt := range []struct {
		word  string
		known []string
		want  string
	}{
		{"limitz", policy, `did you mean "limits"?`},
		{"limit", policy, `did you mean "limits"?`},
		{"Limits", policy, `did you mean "limits"?`},
		{"lmiits", policy, `did you mean "limits"?`},
		{"sahdwo", policy, `did you mean "shadow"?`},
		{"override", policy, `did you mean "overrides"?`},
		{"on-eror", []string{"exempt", "on_error"}, `did you mean "on_error"?`},
		{"rat", []string{"burst", "name", "rate"}, `did you mean "rate"?`},
		{"cost", []string{"burst", "name", "rate"}, "known here: burst, name, rate"},
		{"", policy, "known here: limits, overrides, shadow"},
		{"m", []string{"n"}, "known here: n"}, // all of it would be wrong
		{strings.Repeat("x", 1<<20), policy, "known here: limits, overrides, shadow"},
		{"xyz", many[:8], "known here: aaa, bbb, ccc, ddd, eee, fff, ggg, hhh"},
		{"xyz", many, "known here: aaa, bbb, ccc, ddd, eee, fff, ggg, hhh and 2 more"},
		{"xyz", nil, ""},
	} {
		if got := spelling.Hint(tt.word, tt.known); got != tt.want {
			t.Errorf("%.20q of %q: got %s, want %s", tt.word, tt.known, got, tt.want)
		}
	}
}

func TestClosest(t *testing.T) {
	if got, ok := spelling.Closest("abcx", []string{"abde", "abcd", "abce"}); got != "abcd" || !ok {
		t.Errorf("got %q, want the first with the fewest mistakes", got)
	}
}
