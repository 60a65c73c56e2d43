package fields

import (
	"math"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/client"
)

func TestWindowOf(t *testing.T) {
	for rate, want := range map[string]uint64{
		"100/min": 60, "100/m": 60, "5/s": 1, "10/30s": 30, "2 per 5 seconds": 5, "1_000/day": 86400, "1/2 weeks": 1209600, "1 PER HOUR": 3600, "3/1_0hrs": 36000,
		"10/100ms": 0, "1000/month": 0, "1000/3 months": 0, "1/year": 0, "unlimited": 0, "nonsense": 0, "1/": 0, "1/99999999999s": 0,
	} {
		if got, ok := windowOf(&client.Limit{Rate: rate}); got != want || ok != (want > 0) {
			t.Errorf("%s: %d %v, want %d", rate, got, ok, want)
		}
	}
	if _, ok := windowOf(&client.Limit{Rate: "1/day", TimeZone: "Europe/Berlin"}); ok {
		t.Error("a day of a zone is not always as long")
	}
}

func TestOf(t *testing.T) {
	c, err := client.New(client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	policy := c.Policy("shop", "default")
	for name, tt := range map[string]struct {
		result client.Result
		want   Set
	}{
		"nothing":   {client.Result{Allowed: true, Reason: client.ReasonExempt}, Set{}},
		"unlimited": {client.Result{Allowed: true, Statuses: []client.Status{{Limit: math.MaxUint64, Remaining: math.MaxUint64, Allowed: true}}}, Set{}},
		"odd names": {client.Result{Allowed: true, Statuses: []client.Status{{Name: `a"\%é`, Limit: 1, Allowed: true}, {Limit: 1 << 60, Allowed: true}, {Name: "limit-2", Allowed: true}}}, Set{
			RateLimit: `"a\"\\%25%C3%A9";r=0, "limit-2";r=0, "limit-2#2";r=0`, Policy: `"a\"\\%25%C3%A9";q=1, "limit-2";q=999999999999999, "limit-2#2";q=0`,
		}},
		"a denial": {client.Result{RetryAfter: 1500 * time.Millisecond, Statuses: []client.Status{
			{Name: "a", Limit: 2, Remaining: 2, Allowed: true, ResetAfter: time.Second}, {Name: "b", Limit: 1, RetryAfter: 1500 * time.Millisecond, ResetAfter: time.Minute},
		}}, Set{RateLimit: `"a";r=2, "b";r=0;t=2`, Policy: `"a";q=2, "b";q=1`, RetryAfter: "2"}},
		"never": {client.Result{RetryAfter: client.Never, Statuses: []client.Status{{Name: "a", Limit: 2, Remaining: 2, RetryAfter: client.Never}}},
			Set{RateLimit: `"a";r=2`, Policy: `"a";q=2`}},
	} {
		got := Of([]Answer{{policy, tt.result}})
		if got.RateLimit != tt.want.RateLimit || got.Policy != tt.want.Policy || got.RetryAfter != tt.want.RetryAfter {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}
