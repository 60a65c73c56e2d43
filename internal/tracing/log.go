package tracing

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
)

const (
	// sameEvery is how often a problem is logged that stays the same. Without a
	// collector there is one for each batch of spans.
	sameEvery = time.Minute
	// mostLines bounds the lines in that time, whatever the problems are.
	mostLines = 10
)

// logTo makes OpenTelemetry's own problems lines of logger. OpenTelemetry has one
// logger for the process, so the last call counts.
func logTo(logger *slog.Logger) {
	p := &problems{logger: logger, now: time.Now}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { p.log(err.Error()) }))
	otel.SetLogger(logr.FromSlogHandler(handler{p}))
}

// problems logs what OpenTelemetry reports, and not the same again and again. It
// is safe for concurrent use.
type problems struct {
	logger *slog.Logger
	now    func() time.Time

	mu      sync.Mutex // protects the following
	last    string     // the problem that was logged last
	begin   time.Time  // of the present period of sameEvery
	lines   int        // logged in it
	dropped int        // not logged since the last line
}

func (p *problems) log(problem string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if now.Sub(p.begin) >= sameEvery {
		p.begin, p.lines, p.last = now, 0, ""
	}
	if problem == p.last || p.lines >= mostLines {
		p.dropped++
		return
	}
	p.last = problem
	p.lines++
	attributes := []any{"problem", problem}
	if p.dropped > 0 {
		attributes = append(attributes, "not_logged", p.dropped)
		p.dropped = 0
	}
	p.logger.Warn("tracing: spans may be lost", attributes...)
}

// A handler logs what OpenTelemetry logs, from warnings on.
type handler struct{ *problems }

// Enabled implements slog.Handler. OpenTelemetry's warnings have level -1, and
// what is below them says how it works and not what is wrong.
func (h handler) Enabled(_ context.Context, level slog.Level) bool { return level >= -1 }

// Handle implements slog.Handler. It leaves out the attributes but for the error:
// they quote headers, which hold passwords.
func (h handler) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			text += ": " + err.Error()
		}
		return true
	})
	h.log(text)
	return nil
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h handler) WithGroup(string) slog.Handler { return h }
