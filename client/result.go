package client

import (
	"math"
	"time"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A Reason is why a result is what it is.
type Reason uint8

// The reasons.
const (
	ReasonWithinLimit  Reason = iota + 1
	ReasonOverLimit           // denied
	ReasonExempt              // the identifier has no limit
	ReasonUnlimited           // every limit is "unlimited"
	ReasonStoreFailure        // the daemon's store failed, and the daemon's on_error decided
	ReasonShadow              // over a limit that is in shadow mode
	ReasonFailure             // there was no answer: Err says why, and the failure policy of Options decided
)

var reasons = [...]string{
	ReasonWithinLimit: "WITHIN_LIMIT", ReasonOverLimit: "OVER_LIMIT", ReasonExempt: "EXEMPT", ReasonUnlimited: "UNLIMITED",
	ReasonStoreFailure: "STORE_FAILURE", ReasonShadow: "SHADOW", ReasonFailure: "FAILURE",
}

// String returns the reason's name in the API, such as "OVER_LIMIT".
func (r Reason) String() string {
	if int(r) < len(reasons) && reasons[r] != "" {
		return reasons[r]
	}
	return "REASON_UNSPECIFIED"
}

// Never is the RetryAfter of a call that no wait can help, as its cost is above a limit's
// capacity. It is longer than any wait.
const Never time.Duration = math.MaxInt64

// A Result is the answer to one call.
type Result struct {
	Allowed bool
	Reason  Reason
	// RetryAfter, of a denial, is how long until the same call can be allowed; or Never.
	// 0 if that is not known.
	RetryAfter time.Duration
	// Delay is how long to hold an allowed call of a LeakyBucket, so that calls leave
	// evenly.
	Delay     time.Duration
	Statuses  []Status  // of each limit, in their order
	DecidedAt time.Time // by the daemon's store; for Refund. Zero if no counter was asked
	// Remembered says that a denial was repeated from memory, without a call.
	Remembered bool
	// Err is why there was no answer, or nil. Then the failure policy decided. It is a gRPC
	// status, an error of the context, or ErrClosed.
	Err error
}

// A Status is what one limit says.
type Status struct {
	Name       string // "": it has none
	Limit      uint64 // the largest cost that it ever allows at once
	Remaining  uint64
	ResetAfter time.Duration // until it is wholly unused again
	RetryAfter time.Duration // if it denied: until it can allow the same cost; or Never
	Allowed    bool          // by this limit alone
}

// resultOf returns what r says.
func resultOf(r *ratelimitv1.ShouldAllowResponse) Result {
	out := Result{Allowed: r.GetAllowed(), Reason: Reason(r.GetReason()), Delay: r.GetDelay().AsDuration()}
	if r.GetDecidedAt() != nil {
		out.DecidedAt = r.GetDecidedAt().AsTime()
	}
	if retry := r.GetRetryAfter(); retry != nil {
		out.RetryAfter = retry.AsDuration()
	} else if out.Reason == ReasonOverLimit && !out.Allowed {
		out.RetryAfter = Never
	}
	if n := len(r.GetStatuses()); n > 0 {
		out.Statuses = make([]Status, n)
	}
	for i, in := range r.GetStatuses() {
		st := &out.Statuses[i]
		*st = Status{Name: in.GetName(), Limit: in.GetLimit(), Remaining: in.GetRemaining(), ResetAfter: in.GetResetAfter().AsDuration(), Allowed: in.GetAllowed()}
		if retry := in.GetRetryAfter(); retry != nil {
			st.RetryAfter = retry.AsDuration()
		} else if !st.Allowed {
			st.RetryAfter = Never
		}
	}
	return out
}
