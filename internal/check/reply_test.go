package check

import (
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// TestVerdict holds the first words of an answer to what has happened to the counter: a
// charge over the limit counts, and so is not "denied".
func TestVerdict(t *testing.T) {
	within, over, failed := ratelimitv1.Reason_WITHIN_LIMIT, ratelimitv1.Reason_OVER_LIMIT, ratelimitv1.Reason_STORE_FAILURE
	for _, c := range []struct {
		want   string
		of     response
		reason ratelimitv1.Reason
	}{
		{"allowed", response{}, within},
		{"denied", response{}, over},
		{"allowed", response{dryRun: true}, within},
		{"allowed", response{}, failed},
		{"charged", response{mode: strategy.Charge}, within},
		{"charged", response{mode: strategy.Charge}, over},
		{"would be charged", response{mode: strategy.Charge, dryRun: true}, over},
		{"not charged", response{mode: strategy.Charge}, failed},
		{"not charged", response{mode: strategy.Charge}, ratelimitv1.Reason_EXEMPT},
		{"refunded", response{mode: strategy.Refund}, within},
		{"would be refunded", response{mode: strategy.Refund, dryRun: true}, within},
		{"not refunded", response{mode: strategy.Refund}, ratelimitv1.Reason_UNLIMITED},
		{"settled", response{settled: true}, over},
		{"not settled", response{settled: true}, failed},
	} {
		c.of.ShouldAllowResponse = &ratelimitv1.ShouldAllowResponse{Reason: c.reason, Allowed: c.reason != over}
		if got := c.of.verdict(); got != c.want {
			t.Errorf("mode %v, dry run %v, settled %v, %v: %q, want %q", c.of.mode, c.of.dryRun, c.of.settled, c.reason, got, c.want)
		}
	}
}
