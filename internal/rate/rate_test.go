package rate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
)

const day = 24 * time.Hour

func TestParse(t *testing.T) {
	tests := []struct {
		in        string
		count     int64
		period    time.Duration
		canonical string
	}{
		{"100/min", 100, time.Minute, "100/1m"},
		{"5/s", 5, time.Second, "5/1s"},
		{"10/30s", 10, 30 * time.Second, "10/30s"},
		{"2 per 5 seconds", 2, 5 * time.Second, "2/5s"},
		{"2per5seconds", 2, 5 * time.Second, "2/5s"},
		{"1000/500ms", 1000, 500 * time.Millisecond, "1000/500ms"},
		{"1_000/day", 1000, day, "1000/1d"},
		{"0/h", 0, time.Hour, "0/1h"},
		{"unlimited", rate.Unlimited, 0, "unlimited"},
		{" UNLIMITED\t", rate.Unlimited, 0, "unlimited"},
		{"  7  /  2  Hours ", 7, 2 * time.Hour, "7/2h"},
		{"7 PER MIN", 7, time.Minute, "7/1m"},
		{"1/M", 1, time.Minute, "1/1m"},
		{"007/01s", 7, time.Second, "7/1s"},
		{"1/60s", 1, time.Minute, "1/1m"},
		{"1/90s", 1, 90 * time.Second, "1/90s"},
		{"1/1000ms", 1, time.Second, "1/1s"},
		{"1/1_500 ms", 1, 1500 * time.Millisecond, "1/1500ms"},
		{"1/24h", 1, day, "1/1d"},
		{"1/week", 1, 7 * day, "1/1w"},
		{"1/14 days", 1, 14 * day, "1/2w"},
		{"1/366d", 1, 366 * day, "1/366d"},
		{"1/31622400000ms", 1, 366 * day, "1/366d"},
		{"1/1ms", 1, time.Millisecond, "1/1ms"},
		{"100/month", 100, 31 * day, "100/1month"},
		{"100 per 1 MO", 100, 31 * day, "100/1month"},
		{"100/3 Months", 100, 93 * day, "100/3month"},
		{"100/y", 100, 366 * day, "100/1year"},
		{"100/12 months", 100, 366 * day, "100/1year"},
		{"1000000000/s", 1e9, time.Second, "1000000000/1s"},
		{"1_000_000_000 / s", 1e9, time.Second, "1000000000/1s"},
	}
	for _, tt := range tests {
		r, err := rate.Parse(tt.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if r.Count != tt.count || r.Period != tt.period || r.String() != tt.canonical {
			t.Errorf("Parse(%q) = {%d %v} %q, want {%d %v} %q",
				tt.in, r.Count, r.Period, r, tt.count, tt.period, tt.canonical)
		}
	}
}

func TestParseEveryUnitName(t *testing.T) {
	for names, period := range map[string]time.Duration{
		"ms msec msecs milli millis millisecond milliseconds": time.Millisecond,
		"s sec secs second seconds":                           time.Second,
		"m min mins minute minutes":                           time.Minute,
		"h hr hrs hour hours":                                 time.Hour,
		"d day days":                                          day,
		"w wk wks week weeks":                                 7 * day,
	} {
		for name := range strings.FieldsSeq(names) {
			for _, in := range []string{"3/2" + name, "3 per 2 " + strings.ToUpper(name)} {
				if r, err := rate.Parse(in); err != nil || r.Period != 2*period || r.Count != 3 {
					t.Errorf("Parse(%q) = %+v, %v", in, r, err)
				}
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", `rate "": empty; write a count and a period, as in "100/min"`},
		{"  ", `empty`},
		{"100", `has no period`},
		{"100/", `has no period`},
		{"100 per", `has no period`},
		{"/s", `the count "/s" is not a whole number`},
		{"ten/s", `must start with a count`},
		{"unlimited/s", `must start with a count`},
		{"unlimited 5/s", `must start with a count`},
		{"-5/s", `the count "-5" is not a whole number`},
		{"+5/s", `the count "+5" is not a whole number`},
		{"1.5/s", `the count "1.5" is not a whole number`},
		{"1,000/s", `found ",000/s" instead of "/" or "per"`},
		{"1e3/s", `found "e3/s" instead of`},
		{"_1/s", `the count "_1" is not a whole number`},
		{"1_/s", `the count "1_" is not a whole number`},
		{"1__0/s", `the count "1__0" is not a whole number`},
		{"5 5/s", `found "5/s" instead of`},
		{"100/mn", `rate "100/mn": unknown unit "mn"; use ms, s, m, h, d, w, month or year, as in "100/m"`},
		{"100/fortnight", `unknown unit "fortnight"`},
		{"100/" + strings.Repeat("s", 40), `unknown unit`},
		{"100/0 months", `no whole part of a year; write 1, 2, 3, 4 or 6 months, or 1 year`},
		{"100/5 months", `no whole part of a year`},
		{"100/24months", `no whole part of a year`},
		{"100/2 years", `no whole part of a year`},
		{"100/9999999999month", `no whole part of a year`},
		{"100/us", `the unit "us" is too short`},
		{"100/1.5s", `the period "1.5s" is not a whole number`},
		{"100/-1s", `the period "-1s" is not a whole number`},
		{"100/30", `the period has no unit`},
		{"100/1h30m", `"30m" is not expected in the period`},
		{"100/s/s", `"/s" is not expected in the period`},
		{"100/2/s", `"/s" is not expected in the period`},
		{"100/0s", `the period is zero`},
		{"100/367d", `the period is over 366 days`},
		{"100/53w", `the period is over 366 days`},
		{"100/31622400001ms", `the period is over 366 days`},
		{"100/99999999999999999999999s", `the period is over 366 days`},
		{"1000000001/s", `the count "1000000001" is over 1e9`},
		{"99999999999999999999999999/s", `is over 1e9`},
		{"１００/s", `is not a whole number`},
		{"100/s\x00", `"\x00" is not expected`},
		{strings.Repeat("9", 5000), `..."`},
	}
	for _, tt := range tests {
		r, err := rate.Parse(tt.in)
		if err == nil {
			t.Errorf("Parse(%q) = %v, want an error", tt.in, r)
			continue
		}
		if tt.want != `..."` && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q): %q, want it to say %q", tt.in, err, tt.want)
		}
		if len(err.Error()) > 300 {
			t.Errorf("Parse(%.10q...): the message has %d bytes", tt.in, len(err.Error()))
		}
		if !strings.Contains(err.Error(), `as in "`) {
			t.Errorf("Parse(%q): %q shows no right rate", tt.in, err)
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	for _, in := range []string{"100/min", "2 per 5 SECONDS", "unlimited"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = rate.Parse(in) }); n != 0 {
			t.Errorf("Parse(%q) allocates %v times", in, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"100/min", "2 per 5 seconds", "1_000/day", "unlimited", "0/h", "9/366d", "1/31622400001ms", "7/3 months", "1/year", "-1/s", "1/1.5s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		r, err := rate.Parse(in)
		if err != nil {
			if r != (rate.Rate{}) {
				t.Fatalf("Parse(%q) = %+v with error %v", in, r, err)
			}
			return
		}
		if !r.IsUnlimited() {
			if r.Count < 0 || r.Count > rate.MaxCount || r.Period < rate.MinPeriod || r.Period > rate.MaxPeriod {
				t.Fatalf("Parse(%q) = %+v: out of bounds", in, r)
			}
			if r.Period%time.Millisecond != 0 {
				t.Fatalf("Parse(%q) = %+v: not whole milliseconds", in, r)
			}
		}
		canonical := r.String()
		again, err := rate.Parse(canonical)
		if err != nil || again != r || again.String() != canonical {
			t.Fatalf("Parse(%q) = %+v, but Parse(%q) = %+v, %v", in, r, canonical, again, err)
		}
	})
}

func ExampleParse() {
	r, _ := rate.Parse("1_000 per 60 seconds")
	fmt.Println(r.Count, r.Period, r)

	_, err := rate.Parse("100/mn")
	fmt.Println(err)
	// Output:
	// 1000 1m0s 1000/1m
	// rate "100/mn": unknown unit "mn"; use ms, s, m, h, d, w, month or year, as in "100/m"
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = rate.Parse("100/min")
	}
}

func TestValid(t *testing.T) {
	for r, want := range map[rate.Rate]bool{
		{Count: rate.Unlimited}:                        true,
		{Count: 0, Period: rate.MinPeriod}:             true,
		{Count: rate.MaxCount, Period: rate.MaxPeriod}: true,
		{}:                                     false,
		{Count: 1, Period: rate.MinPeriod - 1}: false,
		{Count: 1, Period: rate.MinPeriod + 1}: false,
		{Count: 1, Period: rate.MaxPeriod + rate.MinPeriod}: false,
		{Count: rate.MaxCount + 1, Period: rate.MinPeriod}:  false,
		{Count: 1, Period: 62 * day, Months: 2}:             true,
		{Count: 1, Period: 60 * day, Months: 2}:             false,
		{Count: 1, Period: 155 * day, Months: 5}:            false,
		{Count: 1, Months: 12}:                              false,
		{Count: rate.Unlimited, Months: 1}:                  false,
		{Count: rate.Unlimited, Period: rate.MinPeriod}:     false,
		{Count: rate.Unlimited - 1, Period: rate.MinPeriod}: false,
	} {
		if got := r.Valid(); got != want {
			t.Errorf("%+v: got %v", r, got)
		}
		if again, err := rate.Parse(r.String()); (err == nil && again == r) != want {
			t.Errorf("%+v: Parse reads %v, %v", r, again, err)
		}
	}
}
