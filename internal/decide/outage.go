package decide

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/policy"
)

// quiet is how long the store must not have failed before it is said to be back.
const quiet = time.Second

// An outage remembers how the store fails, so that the log says it once, and
// not for each request.
type outage struct {
	log      *slog.Logger
	on       atomic.Bool
	last     atomic.Int64 // when it last failed, in nanoseconds since the Unix epoch
	logged   atomic.Int64 // when the log last said so, likewise
	unlogged atomic.Int64 // decisions that failed since then
}

// failed notes that the store failed to make so many decisions.
func (o *outage) failed(onError policy.OnError, err error, decisions int) {
	now := time.Now().UnixNano()
	o.last.Store(now)
	o.unlogged.Add(int64(decisions))
	logged := o.logged.Load()
	if o.on.Load() && now-logged < int64(lograte.Every) || !o.logged.CompareAndSwap(logged, now) {
		return
	}
	o.on.Store(true)
	o.log.Error("the store fails: what it cannot decide is answered by the failure policy; check that it runs and can be reached",
		"meanwhile", meanwhile[onError], "error", err, "on_error", string(onError), "decisions", o.unlogged.Swap(0))
}

// meanwhile says what becomes of requests that the store cannot decide.
var meanwhile = map[policy.OnError]string{
	policy.FailAllow: "requests are ALLOWED and no limit holds them, as --on-error=allow says",
	policy.FailDeny:  "requests are denied",
	policy.FailError: "requests get an error",
	policy.FailLocal: "requests are counted by this process alone",
}

// over notes that the store made a decision.
func (o *outage) over() {
	if !o.on.Load() || time.Now().UnixNano()-o.last.Load() < int64(quiet) {
		return
	}
	if o.on.CompareAndSwap(true, false) {
		o.log.Info("the store is back", "decisions", o.unlogged.Swap(0))
	}
}
