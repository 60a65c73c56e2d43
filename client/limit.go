package client

import (
	"slices"
	"strings"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A Strategy is the way in which a rate is enforced.
type Strategy int32

// The strategies: see docs/strategies.md.
const (
	FixedWindow          = Strategy(ratelimitv1.Strategy_FIXED_WINDOW)
	SlidingWindowCounter = Strategy(ratelimitv1.Strategy_SLIDING_WINDOW_COUNTER)
	SlidingWindowLog     = Strategy(ratelimitv1.Strategy_SLIDING_WINDOW_LOG)
	TokenBucket          = Strategy(ratelimitv1.Strategy_TOKEN_BUCKET)
	LeakyBucket          = Strategy(ratelimitv1.Strategy_LEAKY_BUCKET)
	GCRA                 = Strategy(ratelimitv1.Strategy_GCRA)
)

// A Limit is a rate to hold an identifier to.
type Limit struct {
	Rate     string   // "100/min", "5/s", "10/30s", "1000/month" or "unlimited"
	Strategy Strategy // 0: FixedWindow
	Burst    uint64   // the capacity of TokenBucket, LeakyBucket and GCRA; 0: the strategy's default
	// Name names the counter, so that it keeps what was consumed when its rate changes.
	Name      string
	TimeZone  string  // of FixedWindow with a rate of days or longer: "Europe/Berlin"; "": UTC
	AnchorDay uint32  // of a rate of months or years: the day on which they begin
	MaxDebt   *uint64 // the most debt that a Charge may leave; nil: no bound
}

// Rate returns the limit of a rate alone: "100/min".
func Rate(rate string) Limit { return Limit{Rate: rate} }

func (l *Limit) message() *ratelimitv1.Limit {
	return &ratelimitv1.Limit{
		Rate: l.Rate, Strategy: ratelimitv1.Strategy(l.Strategy), Burst: l.Burst, Name: l.Name,
		TimeZone: l.TimeZone, AnchorDay: l.AnchorDay, MaxDebt: l.MaxDebt,
	}
}

// bytes returns about how long l is in a message.
func (l *Limit) bytes() int { return len(l.Rate) + len(l.Name) + len(l.TimeZone) + 48 }

// String returns the name of s, such as "token_bucket". That of 0 is "fixed_window".
func (s Strategy) String() string {
	if s == 0 {
		s = FixedWindow
	}
	return strings.ToLower(ratelimitv1.Strategy(s).String())
}

// A scope is what a limiter holds identifiers to: limits in a namespace, or a policy.
type scope struct {
	namespace string
	limits    []Limit
	policy    string

	sent  []*ratelimitv1.Limit
	bytes int // about how long they are in a message
}

func newScope(namespace string, limits []Limit) *scope {
	s := &scope{namespace: namespace, limits: slices.Clone(limits)}
	for i := range limits {
		s.sent = append(s.sent, limits[i].message())
		s.bytes += limits[i].bytes()
	}
	return s
}
