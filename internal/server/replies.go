package server

import (
	"net/http"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/inflight"
)

const (
	// replyTimeout is how long a client may take to read a reply.
	replyTimeout = 30 * time.Second
	// freeReplyBytes is how long a part of a reply is that is not counted: a connection
	// takes more by itself.
	freeReplyBytes = 4 << 10
)

// heldReplies counts what long replies hold until their clients have taken them, and gives
// each client a time for that. A page of metrics has some 100 KB, the answers to a batch have
// more, and whoever asks need not read.
func heldReplies(bound *inflight.Bound, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&heldReply{w, bound, r.RemoteAddr}, r)
	})
}

// A heldReply is the reply to one request.
type heldReply struct {
	http.ResponseWriter
	bound *inflight.Bound
	peer  string
}

// Unwrap is for http.ResponseController.
func (w *heldReply) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter. If there is no room for p, or others need it, the
// connection ends: a part of a reply is of no use.
func (w *heldReply) Write(p []byte) (int, error) {
	if len(p) > freeReplyBytes {
		deadline := http.NewResponseController(w.ResponseWriter).SetWriteDeadline // HTTP/1 and HTTP/2 have it
		_ = deadline(time.Now().Add(replyTimeout))
		release := w.bound.Hold(int64(len(p)), w.peer, func() { _ = deadline(time.Unix(1, 0)) })
		if release != nil {
			defer release()
		}
	}
	return w.ResponseWriter.Write(p)
}
