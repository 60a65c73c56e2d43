package strategy_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestNewLimit(t *testing.T) {
	const (
		fixed   = strategy.FixedWindow
		counter = strategy.SlidingWindowCounter
		log     = strategy.SlidingWindowLog
		token   = strategy.TokenBucket
		leaky   = strategy.LeakyBucket
		gcra    = strategy.GCRA
	)
	long := strings.Repeat("n", strategy.MaxNameBytes)
	perMinute := rate.Rate{Count: 100, Period: time.Minute}
	unlimited := rate.Rate{Count: rate.Unlimited}
	tests := []struct {
		spec strategy.Spec
		want strategy.Limit
	}{
		{strategy.Spec{Rate: "100/min"}, strategy.Limit{Strategy: fixed, Rate: perMinute, Capacity: 100}},
		{strategy.Spec{Rate: "100/min", Strategy: fixed}, strategy.Limit{Strategy: fixed, Rate: perMinute, Capacity: 100}},
		{strategy.Spec{Rate: "100/min", Strategy: counter}, strategy.Limit{Strategy: counter, Rate: perMinute, Capacity: 100}},
		{strategy.Spec{Rate: "100/min", Strategy: log}, strategy.Limit{Strategy: log, Rate: perMinute, Capacity: 100}},
		{strategy.Spec{Rate: "100/min", Strategy: token}, strategy.Limit{Strategy: token, Rate: perMinute, Capacity: 100}},
		{strategy.Spec{Rate: "100/min", Strategy: leaky}, strategy.Limit{Strategy: leaky, Rate: perMinute, Capacity: 100}},
		{strategy.Spec{Rate: "100/min", Strategy: gcra}, strategy.Limit{Strategy: gcra, Rate: perMinute, Capacity: 1}},
		{strategy.Spec{Rate: "100/min", Strategy: token, Burst: 7}, strategy.Limit{Strategy: token, Rate: perMinute, Capacity: 7}},
		{strategy.Spec{Rate: "100/min", Strategy: leaky, Burst: 1}, strategy.Limit{Strategy: leaky, Rate: perMinute, Capacity: 1}},
		{strategy.Spec{Rate: "100/min", Strategy: gcra, Burst: strategy.MaxBurst}, strategy.Limit{Strategy: gcra, Rate: perMinute, Capacity: 1e9}},
		{strategy.Spec{Rate: "0/min", Strategy: token, Burst: 7}, strategy.Limit{Strategy: token, Rate: rate.Rate{Period: time.Minute}, Capacity: 0}},
		{strategy.Spec{Rate: "0/min", Strategy: gcra}, strategy.Limit{Strategy: gcra, Rate: rate.Rate{Period: time.Minute}, Capacity: 0}},
		{strategy.Spec{Rate: "unlimited"}, strategy.Limit{Strategy: fixed, Rate: unlimited}},
		{strategy.Spec{Rate: "unlimited", Strategy: log}, strategy.Limit{Strategy: log, Rate: unlimited}},
		{strategy.Spec{Rate: "unlimited", Strategy: gcra, Burst: 5}, strategy.Limit{Strategy: gcra, Rate: unlimited}},
		{strategy.Spec{Rate: "1000/min", Strategy: log}, strategy.Limit{Strategy: log, Rate: rate.Rate{Count: 1000, Period: time.Minute}, Capacity: 1000}},
		{strategy.Spec{Rate: "1000000000/min"}, strategy.Limit{Strategy: fixed, Rate: rate.Rate{Count: 1e9, Period: time.Minute}, Capacity: 1e9}},
		{strategy.Spec{Name: long, Rate: "100/min" + strings.Repeat(" ", 64-7)}, strategy.Limit{Name: long, Strategy: fixed, Rate: perMinute, Capacity: 100}},
	}
	for _, tt := range tests {
		got, wrong := strategy.NewLimit(tt.spec, 1000)
		if wrong != nil || got != tt.want {
			t.Errorf("NewLimit(%+v) = %+v, %v, want %+v", tt.spec, got, wrong, tt.want)
		}
	}
}

func TestNewLimitViolations(t *testing.T) {
	tests := []struct {
		name string
		spec strategy.Spec
		want []strategy.Violation
	}{
		{"no rate", strategy.Spec{}, []strategy.Violation{
			{"rate", `rate "": empty; write a count and a period, as in "100/min"`},
		}},
		{"rate", strategy.Spec{Rate: "100/mn"}, []strategy.Violation{
			{"rate", `rate "100/mn": unknown unit "mn"; use ms, s, m, h, d, w, month or year, as in "100/m"`},
		}},
		{"long rate", strategy.Spec{Rate: "100/min" + strings.Repeat(" ", 58)}, []strategy.Violation{
			{"rate", `rate "100/min` + strings.Repeat(" ", 57) + `"... has 65 bytes; write it in at most 64, as in "100/min"`},
		}},
		{"long name", strategy.Spec{Name: strings.Repeat("é", 65), Rate: "1/s"}, []strategy.Violation{
			{"name", `"` + strings.Repeat("é", 32) + `"... has 130 bytes; a name has at most 128`},
		}},
		{"strategy", strategy.Spec{Rate: "1/s", Strategy: 7}, []strategy.Violation{
			{"strategy", `unknown strategy 7; use 1 (FIXED_WINDOW) to 6 (GCRA)`},
		}},
		{"strategy with a burst", strategy.Spec{Rate: "1/s", Strategy: 255, Burst: 1}, []strategy.Violation{
			{"strategy", `unknown strategy 255; use 1 (FIXED_WINDOW) to 6 (GCRA)`},
		}},
		{"log over its cap", strategy.Spec{Rate: "1001/5 min", Strategy: strategy.SlidingWindowLog}, []strategy.Violation{
			{"rate", `rate "1001/5 min": a sliding_window_log remembers each request, and this server caps its count at 1000;` +
				` use sliding_window_counter, or a rate such as "1000/5m"`},
		}},
		{"burst of the default strategy", strategy.Spec{Rate: "1/s", Burst: 1}, []strategy.Violation{
			{"burst", `burst 1: fixed_window has none; leave it out, or use token_bucket, leaky_bucket or gcra`},
		}},
		{"burst of a counter", strategy.Spec{Rate: "1/s", Strategy: strategy.SlidingWindowCounter, Burst: 5}, []strategy.Violation{
			{"burst", `burst 5: sliding_window_counter has none; leave it out, or use token_bucket, leaky_bucket or gcra`},
		}},
		{"burst of a log", strategy.Spec{Rate: "1/s", Strategy: strategy.SlidingWindowLog, Burst: math.MaxUint64}, []strategy.Violation{
			{"burst", `burst 18446744073709551615: sliding_window_log has none; leave it out, or use token_bucket, leaky_bucket or gcra`},
		}},
		{"burst", strategy.Spec{Rate: "1/s", Strategy: strategy.TokenBucket, Burst: 1_000_000_001}, []strategy.Violation{
			{"burst", `burst 1000000001 is over 1000000000; write 1 to 1000000000, or 0 for the strategy's default`},
		}},
		{"great burst", strategy.Spec{Rate: "1/s", Strategy: strategy.GCRA, Burst: math.MaxUint64}, []strategy.Violation{
			{"burst", `burst 18446744073709551615 is over 1000000000; write 1 to 1000000000, or 0 for the strategy's default`},
		}},
		{"month of a bucket", strategy.Spec{Rate: "1000/mo", Strategy: strategy.TokenBucket}, []strategy.Violation{
			{"rate", `rate "1000/mo": months and years are those of the calendar, which only a fixed_window follows; use fixed_window, or a period of one length, as in "1000/30d"`},
		}},
		{"zone of a bucket", strategy.Spec{Rate: "1000/d", Strategy: strategy.GCRA, Zone: time.UTC}, []strategy.Violation{
			{"time_zone", `time_zone "UTC": a gcra follows no calendar; leave it out, or use fixed_window`},
		}},
		{"zone of hours", strategy.Spec{Rate: "1000/36h", Zone: time.UTC}, []strategy.Violation{
			{"time_zone", `time_zone "UTC": windows of "1000/36h" are the same in all zones; leave it out, or use a rate of days, weeks, months or years, as in "1000/day"`},
		}},
		{"anchor that not every month has", strategy.Spec{Rate: "1000/month", AnchorDay: 29}, []strategy.Violation{
			{"anchor_day", "anchor_day 29: not every month has this day; write 1 to 28"},
		}},
		{"great anchor", strategy.Spec{Rate: "1000/month", AnchorDay: 1<<32 - 1}, []strategy.Violation{
			{"anchor_day", "anchor_day 4294967295: not every month has this day; write 1 to 28"},
		}},
		{"anchor of days", strategy.Spec{Rate: "1000/30d", AnchorDay: 1}, []strategy.Violation{
			{"anchor_day", `anchor_day 1: only months and years begin on a day; leave it out, or use a rate such as "1000/month"`},
		}},
		{"everything", strategy.Spec{Name: strings.Repeat("n", 129), Rate: "?", Strategy: 9, Burst: 2e9}, []strategy.Violation{
			{"name", `"` + strings.Repeat("n", 64) + `"... has 129 bytes; a name has at most 128`},
			{"strategy", `unknown strategy 9; use 1 (FIXED_WINDOW) to 6 (GCRA)`},
			{"rate", `rate "?": the count "?" is not a whole number; write digits only, as in "100/min" or "10/30s"`},
			{"burst", `burst 2000000000 is over 1000000000; write 1 to 1000000000, or 0 for the strategy's default`},
		}},
	}
	for _, tt := range tests {
		l, wrong := strategy.NewLimit(tt.spec, 1000)
		if !slices.Equal(wrong, tt.want) {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, wrong, tt.want)
		}
		if l != (strategy.Limit{}) {
			t.Errorf("%s: a limit in spite of it: %+v", tt.name, l)
		}
	}
}

// The rate that a message suggests is one that is accepted.
func TestNewLimitSuggestsARightRate(t *testing.T) {
	_, wrong := strategy.NewLimit(strategy.Spec{Rate: "1000000000/90s", Strategy: strategy.SlidingWindowLog}, 10)
	if len(wrong) != 1 {
		t.Fatalf("violations: %q", wrong)
	}
	var suggested string
	if _, err := fmt.Sscanf(wrong[0].Problem[strings.LastIndex(wrong[0].Problem, " ")+1:], "%q", &suggested); err != nil {
		t.Fatal(err)
	}
	l, wrong := strategy.NewLimit(strategy.Spec{Rate: suggested, Strategy: strategy.SlidingWindowLog}, 10)
	if wrong != nil || l.Rate.Period != 90*time.Second {
		t.Errorf("%q: %+v, %q", suggested, l, wrong)
	}
}

func TestSameCounter(t *testing.T) {
	const token, gcra = strategy.TokenBucket, strategy.GCRA
	tests := []struct {
		name string
		a, b strategy.Spec
		want bool
	}{
		{"alike", strategy.Spec{Rate: "60/min"}, strategy.Spec{Rate: "60/60s"}, true},
		{"the default strategy", strategy.Spec{Rate: "1/s"}, strategy.Spec{Rate: "1/s", Strategy: strategy.FixedWindow}, true},
		{"the default burst", strategy.Spec{Rate: "5/s", Strategy: token}, strategy.Spec{Rate: "5/s", Strategy: token, Burst: 5}, true},
		{"another count", strategy.Spec{Rate: "1/s"}, strategy.Spec{Rate: "2/s"}, false},
		{"another period", strategy.Spec{Rate: "1/s"}, strategy.Spec{Rate: "1/m"}, false},
		{"another strategy", strategy.Spec{Rate: "5/s", Strategy: token}, strategy.Spec{Rate: "5/s", Strategy: gcra, Burst: 5}, false},
		{"another burst", strategy.Spec{Rate: "1/s", Strategy: token, Burst: 1}, strategy.Spec{Rate: "1/s", Strategy: token, Burst: 2}, false},
		{"one named", strategy.Spec{Rate: "1/s"}, strategy.Spec{Rate: "1/s", Name: "n"}, false},
		{"named alike", strategy.Spec{Rate: "1/s", Name: "n"}, strategy.Spec{Rate: "1/s", Name: "n"}, true},
		{"named alike, another rate", strategy.Spec{Rate: "1/s", Name: "n"}, strategy.Spec{Rate: "2/h", Name: "n"}, true},
		{"named alike, another burst", strategy.Spec{Rate: "1/s", Name: "n", Strategy: gcra, Burst: 1}, strategy.Spec{Rate: "1/s", Name: "n", Strategy: gcra, Burst: 2}, true},
		{"named alike, another strategy", strategy.Spec{Rate: "1/s", Name: "n", Strategy: token}, strategy.Spec{Rate: "1/s", Name: "n", Strategy: gcra}, false},
		{"named otherwise", strategy.Spec{Rate: "1/s", Name: "n"}, strategy.Spec{Rate: "1/s", Name: "N"}, false},
	}
	for _, tt := range tests {
		a, b := newLimit(t, tt.a), newLimit(t, tt.b)
		if a.SameCounter(&b) != tt.want || b.SameCounter(&a) != tt.want {
			t.Errorf("%s: SameCounter(%+v, %+v) = %v, %v, want %v", tt.name, a, b, a.SameCounter(&b), b.SameCounter(&a), tt.want)
		}
		if !a.SameCounter(&a) || !b.SameCounter(&b) {
			t.Errorf("%s: a limit is not of its own counter", tt.name)
		}
	}
}

// TestNewLimitOf makes limits from numbers, and compares them with what NewLimit makes from
// text.
func TestNewLimitOf(t *testing.T) {
	for _, spec := range []strategy.Spec{
		{Rate: "100/min"},
		{Name: "n", Rate: "100/min", Strategy: strategy.GCRA, Burst: 5},
		{Rate: "0/366d", Strategy: strategy.TokenBucket, Burst: 7},
		{Rate: "1000000000/ms"},
		{Rate: "unlimited", Strategy: strategy.SlidingWindowLog},
		{Rate: "1001/m", Strategy: strategy.SlidingWindowLog},
		{Name: strings.Repeat("n", 129), Rate: "1/s", Strategy: 9, Burst: 2e9},
		{Rate: "1/s", Burst: 1},
		{Rate: "5/3 months", AnchorDay: 15, Zone: time.UTC, MaxDebt: strategy.AtMost(7)},
		{Rate: "5/h", Zone: time.UTC},
	} {
		r, err := rate.Parse(spec.Rate)
		if err != nil {
			t.Fatal(err)
		}
		spec.Rate = r.String() // as messages of numbers quote it
		want, wantWrong := strategy.NewLimit(spec, 1000)
		got, gotWrong := strategy.NewLimitOf(spec, r, 1000)
		if got != want || fmt.Sprint(gotWrong) != fmt.Sprint(wantWrong) {
			t.Errorf("%+v: got %+v, %q, want %+v, %q", spec, got, gotWrong, want, wantWrong)
		}
	}
	for _, r := range []rate.Rate{{}, {Count: -2, Period: time.Second}, {Count: rate.MaxCount + 1, Period: time.Second}, {Count: 1, Period: time.Microsecond},
		{Count: 1, Period: time.Second + 1}, {Count: 1, Period: rate.MaxPeriod + time.Millisecond}, {Count: rate.Unlimited, Period: time.Second}} {
		if _, wrong := strategy.NewLimitOf(strategy.Spec{}, r, 1000); len(wrong) != 1 || wrong[0].Field != "rate" || !strings.Contains(wrong[0].Problem, "is out of bounds") {
			t.Errorf("%+v: got %q", r, wrong)
		}
	}
}

func TestCounter(t *testing.T) {
	for _, tt := range []struct {
		spec strategy.Spec
		want string
	}{
		{strategy.Spec{Rate: "100/min"}, "fixed_window:100/1m"},
		{strategy.Spec{Rate: "10/30 s", Strategy: strategy.SlidingWindowLog}, "sliding_window_log:10/30s"},
		{strategy.Spec{Rate: "100/h", Strategy: strategy.TokenBucket}, "token_bucket:100/1h"},
		{strategy.Spec{Rate: "100/h", Strategy: strategy.TokenBucket, Burst: 100}, "token_bucket:100/1h"},
		{strategy.Spec{Rate: "100/h", Strategy: strategy.TokenBucket, Burst: 20}, "token_bucket:100/1h:20"},
		{strategy.Spec{Rate: "100/h", Strategy: strategy.GCRA}, "gcra:100/1h:1"},
		{strategy.Spec{Rate: "0/h", Strategy: strategy.GCRA, Burst: 5}, "gcra:0/1h"},
		{strategy.Spec{Rate: "unlimited"}, "fixed_window:unlimited"},
		{strategy.Spec{Rate: "100/h", Strategy: strategy.GCRA, Name: "a:b"}, "a:b"},
	} {
		l := newLimit(t, tt.spec)
		if got := l.Counter(); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.spec, got, tt.want)
		}
	}
}

// TestLimitAllocations checks that what each request does with limits allocates nothing.
func TestLimitAllocations(t *testing.T) {
	spec := strategy.Spec{Name: "n", Rate: "100/min", Strategy: strategy.TokenBucket, Burst: 20}
	if n := testing.AllocsPerRun(100, func() { strategy.NewLimit(spec, 1000) }); n != 0 {
		t.Errorf("NewLimit: %v allocations", n)
	}
	l := newLimit(t, strategy.Spec{Rate: "100/min", Strategy: strategy.TokenBucket, Burst: 20})
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { buf = l.AppendCounter(buf[:0]) }); n != 0 {
		t.Errorf("AppendCounter: %v allocations", n)
	}
}
