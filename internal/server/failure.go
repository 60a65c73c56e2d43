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

// answerFailure answers a request that the store could not decide, as the
// failure policy of its namespace says; but nothing is denied to it if all its
// limits are in shadow mode. A caller that is gone is told so: that is no
// failure of the store.
func (s *Server) answerFailure(ctx context.Context, ns *policy.Namespace, r *store.Request, err error, made *responses) (*ratelimitv1.ShouldAllowResponse, error) {
	if gone := callerGone(ctx); gone != nil {
		s.metrics.decided(r.Namespace, outcomeError)
		return nil, gone
	}
	s.metrics.storeErrors.Inc()
	onError := ns.OnError(s.onError)
	s.failure.failed(s.logger, onError, err, 1)
	if onError != policy.FailLocal && !slices.ContainsFunc(r.Limits, func(l strategy.Limit) bool { return !l.Shadow }) {
		onError = policy.FailAllow
	}
	var response *ratelimitv1.ShouldAllowResponse
	switch onError {
	case policy.FailError:
		s.metrics.decided(r.Namespace, outcomeError)
		return nil, storeFailed(err)
	case policy.FailDeny:
		response = made.empty()
		s.metrics.decided(r.Namespace, outcomeFailedClosed)
	case policy.FailLocal:
		results := make([]store.Result, 1)
		s.fallback.Decide(ctx, []store.Request{*r}, results)
		response = made.to(r, &results[0].Decision)
		if response.GetAllowed() {
			s.metrics.decided(r.Namespace, outcomeLocalAllowed)
		} else {
			s.metrics.decided(r.Namespace, outcomeLocalDenied)
		}
	default:
		response = made.empty()
		response.Allowed = true
		s.metrics.decided(r.Namespace, outcomeFailedOpen)
	}
	response.Reason = ratelimitv1.Reason_STORE_FAILURE
	return response, nil
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
