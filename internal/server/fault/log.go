package fault

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// A Log counts what goes wrong with calls, and logs it, but not too often. It is
// safe for concurrent use.
type Log struct {
	book        *account.Book
	logger      *slog.Logger
	panics      *crash.Log
	undecodable lograte.Gate
	ignored     lograte.Gate
	hidden      lograte.Gate
}

// NewLog returns a Log.
func NewLog(book *account.Book, logger *slog.Logger) *Log {
	l := &Log{book: book, logger: logger, panics: crash.NewLog(logger)}
	l.panics.CountIn(&book.Panics)
	return l
}

// Recover recovers from a panic if it is deferred: a defect of ours, which it counts and
// logs, and of which err tells the caller.
func (l *Log) Recover(method string, err *error) {
	if p := recover(); p != nil {
		l.panics.Note(method, p)
		*err = ErrPanicked
	}
}

// maxReasonBytes is how much is shown of why a message cannot be decoded.
const maxReasonBytes = 200

// Undecodable counts and logs a message that is not what its method takes, and
// returns what its caller is told. A proxy that lets requests pass when it gets an
// error would otherwise do so without a word.
func (l *Log) Undecodable(ctx context.Context, method string, err error) error {
	reason := err.Error()
	reason = reason[:min(len(reason), maxReasonBytes)]
	l.book.Undecodable.Add(1)
	if messages := l.undecodable.Pass(time.Now()); messages > 0 {
		from := ""
		if p, ok := peer.FromContext(ctx); ok {
			from = p.Addr.String()
		}
		l.logger.Warn("a message cannot be decoded, and is refused as INVALID_ARGUMENT; look at the client that sends it", "method", method, "peer", from, "reason", reason, "messages", messages)
	}
	return status.Errorf(codes.InvalidArgument, "the message cannot be decoded: %s", reason)
}

// Hide logs err, and returns what an end client may be told of it.
func (l *Log) Hide(path string, err error) error {
	st := Status(err)
	if n := l.hidden.Pass(time.Now()); n > 0 {
		l.logger.Warn("a proxy gets no decision, and its client is not told why; correct what the proxy asks, or see why the store fails", "path", path, "code", st.Code().String(), "error", st.Message(), "requests", n)
	}
	const hidden = "the limit of this request cannot be checked"
	if after, ok := RetryAfter(st); ok {
		return again(codes.ResourceExhausted, hidden, after).Err()
	}
	return status.Error(st.Code(), hidden)
}

// Ignore counts and logs a part of a request of Envoy that cannot be heeded. The
// rest of the request is decided all the same: an error would make Envoy let all of
// it pass.
func (l *Log) Ignore(domain, field, problem string) {
	l.book.Ignored.Add(1)
	if n := l.ignored.Pass(time.Now()); n > 0 {
		l.logger.Warn("a part of a request of Envoy is ignored, and the rest decided; correct Envoy's configuration", "domain", quote.Cut(domain), "field", field, "problem", problem, "ignored", n)
	}
}
