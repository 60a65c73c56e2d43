package server

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// answerFailure answers a request that the store could not decide.
func (s *Server) answerFailure(ctx context.Context, ns *policy.Namespace, r *store.Request, err error, made *responses) (*ratelimitv1.ShouldAllowResponse, error) {
	d, counted, err := s.failedDecision(ctx, ns, r, err)
	if err != nil {
		return nil, err
	}
	var response *ratelimitv1.ShouldAllowResponse
	if counted {
		response = made.to(r, d)
	} else {
		response = made.empty()
		response.Allowed = d.Allowed
	}
	response.Reason = ratelimitv1.Reason_STORE_FAILURE
	return response, nil
}

// failedDecision decides a request that the store could not decide, as the
// failure policy of its namespace says; but nothing is denied to it if all its
// limits are in shadow mode. Only what was counted has statuses. A caller that
// is gone is told so: that is no failure of the store.
func (s *Server) failedDecision(ctx context.Context, ns *policy.Namespace, r *store.Request, err error) (d *strategy.Decision, counted bool, _ error) {
	if gone := callerGone(ctx); gone != nil {
		s.metrics.decided(r.Namespace, outcomeError)
		return nil, false, gone
	}
	defer func() { s.hotKeys.Record(r.Namespace, r.Identifier, d != nil && !d.Allowed) }()
	s.metrics.storeErrors.Inc()
	onError := ns.OnError(s.onError)
	s.failure.failed(s.logger, onError, err, 1)
	if onError != policy.FailLocal && !slices.ContainsFunc(r.Limits, func(l strategy.Limit) bool { return !l.Shadow }) {
		onError = policy.FailAllow
	}
	switch onError {
	case policy.FailError:
		s.metrics.decided(r.Namespace, outcomeError)
		return nil, false, storeFailed(err)
	case policy.FailDeny:
		s.metrics.decided(r.Namespace, outcomeFailedClosed)
		return &strategy.Decision{}, false, nil
	case policy.FailLocal:
		results := make([]store.Result, 1)
		s.fallback.Decide(ctx, []store.Request{*r}, results)
		if results[0].Allowed {
			s.metrics.decided(r.Namespace, outcomeLocalAllowed)
		} else {
			s.metrics.decided(r.Namespace, outcomeLocalDenied)
		}
		return &results[0].Decision, true, nil
	default:
		s.metrics.decided(r.Namespace, outcomeFailedOpen)
		return &strategy.Decision{Allowed: true}, false, nil
	}
}

const (
	// logEvery is how often the log says that the store still fails.
	logEvery = 10 * time.Second
	// quiet is how long the store must not have failed to be back.
	quiet = time.Second
)

// A failure remembers how the store is failing, so that the log says so once
// and not for each request.
type failure struct {
	failing  atomic.Bool
	last     atomic.Int64 // when it last failed, in nanoseconds since the Unix epoch
	logged   atomic.Int64 // when the log last said so, likewise
	unlogged atomic.Int64 // failures since then
}

// failed notes that the store failed to make so many decisions.
func (f *failure) failed(log *slog.Logger, onError policy.OnError, err error, decisions int) {
	now := time.Now().UnixNano()
	f.last.Store(now)
	f.unlogged.Add(int64(decisions))
	logged := f.logged.Load()
	if f.failing.Load() && now-logged < int64(logEvery) || !f.logged.CompareAndSwap(logged, now) {
		return
	}
	f.failing.Store(true)
	log.Error("the store fails: what it can not decide is answered by the failure policy; check that it runs and can be reached",
		"error", err, "on_error", string(onError), "decisions", f.unlogged.Swap(0))
}

// recovered notes that the store made a decision.
func (f *failure) recovered(log *slog.Logger) {
	if !f.failing.Load() || time.Now().UnixNano()-f.last.Load() < int64(quiet) {
		return
	}
	if f.failing.CompareAndSwap(true, false) {
		log.Info("the store is back", "decisions", f.unlogged.Swap(0))
	}
}
