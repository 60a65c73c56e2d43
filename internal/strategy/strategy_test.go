package strategy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// The numbers are those of the API, and All is in their order.
func TestStrategyNames(t *testing.T) {
	names := []string{"fixed_window", "sliding_window_counter", "sliding_window_log", "token_bucket", "leaky_bucket", "gcra"}
	if len(strategy.All) != len(names) {
		t.Fatalf("%d strategies, want %d", len(strategy.All), len(names))
	}
	for i, s := range strategy.All {
		if s != strategy.Strategy(i+1) || s.String() != names[i] {
			t.Errorf("All[%d] = %d, %q, want %d, %q", i, s, s.String(), i+1, names[i])
		}
		for _, name := range []string{names[i], strings.ToUpper(names[i])} {
			if got, err := strategy.Parse(name); got != s || err != nil {
				t.Errorf("Parse(%q) = %v, %v", name, got, err)
			}
		}
	}
	for _, unknown := range []strategy.Strategy{0, 7, 255} {
		if want := fmt.Sprintf("strategy(%d)", uint8(unknown)); unknown.String() != want {
			t.Errorf("Strategy(%d) is called %q, want %q", uint8(unknown), unknown, want)
		}
	}
}

func TestParseUnknownStrategy(t *testing.T) {
	for _, name := range []string{"", "token-bucket", "strategy(0)", " gcra", "gcra2"} {
		s, err := strategy.Parse(name)
		want := fmt.Sprintf("unknown strategy %q; use fixed_window, sliding_window_counter, sliding_window_log, token_bucket, leaky_bucket, gcra", name)
		if s != 0 || err == nil || err.Error() != want {
			t.Errorf("Parse(%q) = %v, %v, want %s", name, s, err, want)
		}
	}
}

func TestInstantOf(t *testing.T) {
	midnight := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	if midnight.Weekday() != time.Thursday {
		t.Fatalf("%v is a %v", midnight, midnight.Weekday())
	}
	for _, tt := range []struct {
		in   time.Time
		want strategy.Instant
	}{
		{midnight, start},
		{midnight.Add(1999), start + 1},
		{midnight.In(time.FixedZone("", 3600)), start},
		{time.Unix(0, 0), 0},
	} {
		if got := strategy.InstantOf(tt.in); got != tt.want {
			t.Errorf("InstantOf(%v) = %d, want %d", tt.in, got, tt.want)
		}
	}
}

func ExampleDecision_Decide() {
	limit, wrong := strategy.NewLimit(strategy.Spec{Rate: "2/s", Strategy: strategy.TokenBucket, Burst: 4}, strategy.DefaultMaxLogCount)
	if wrong != nil {
		fmt.Println(wrong)
		return
	}
	limits := []strategy.Limit{limit}
	states := make([]strategy.State, 1) // a counter that was never used
	now := strategy.InstantOf(time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC))

	var d strategy.Decision
	for range 3 {
		consumed := d.Decide(limits, states, strategy.Ask{Cost: 2, Now: now})
		fmt.Println(consumed == strategy.ConsumedAll, d.Allowed, d.Statuses[0].Remaining, d.RetryAfter)
	}
	// Output:
	// true true 2 0s
	// true true 0 0s
	// false false 0 1s
}
