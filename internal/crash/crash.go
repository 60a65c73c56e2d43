// Package crash turns the panic of a goroutine into an error of what it worked
// on. Without that, a panic in any goroutine ends the whole process.
package crash

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// Err is the error of what a goroutine worked on when it panicked.
var Err = errors.New("internal error: see the daemon's log")

// A Log counts panics and logs them with their stack, but not too often: whoever
// finds what panics may send it again and again. The nil *Log does neither. It is
// safe for concurrent use.
type Log struct {
	logger *slog.Logger
	gate   lograte.Gate
	count  atomic.Pointer[atomic.Uint64]
}

// NewLog returns a Log.
func NewLog(logger *slog.Logger) *Log { return &Log{logger: logger} }

// CountIn makes l count the panics from now on in n.
func (l *Log) CountIn(n *atomic.Uint64) {
	if l != nil {
		l.count.Store(n)
	}
}

// Recover recovers from a panic if it is deferred. Then it calls failed with Err,
// which may be wrapped. where says in the log what panicked.
func (l *Log) Recover(where string, failed func(error)) {
	p := recover()
	if p == nil {
		return
	}
	l.Note(where, p)
	failed(Err)
}

// Note counts and logs the panic p, for whoever has recovered from it.
func (l *Log) Note(where string, p any) {
	if l == nil {
		return
	}
	if n := l.count.Load(); n != nil {
		n.Add(1)
	}
	if times := l.gate.Pass(time.Now()); times > 0 {
		l.logger.Error("a call panicked; please report this defect with the stack", "method", where, "panic", quote.Cut(fmt.Sprint(p)), "stack", string(debug.Stack()), "calls", times)
	}
}
