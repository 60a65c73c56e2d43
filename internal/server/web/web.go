// Package web has what the HTTP fronts share: it reads bodies within bounds, and
// writes JSON.
package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// ErrTooLong is wrapped by the error of a body that is longer than it may be.
var ErrTooLong = errors.New("too long")

const (
	// freeBytes is how long a body is that is not counted: a connection takes more by itself.
	freeBytes = 4 << 10
	// decodedBytes is how much a byte of a body takes until its request is answered: what
	// it is decoded into, decisions, and the reply as messages and as text. Batches of 1,000
	// requests allocate more, with what is soon garbage: 37 to 56 bytes for each, by what
	// the requests are.
	decodedBytes = 32
	// longestWait is how long a body waits to be read, and for its turn. Clients wait for some seconds, and
	// what is decided for one that has gone delays the others.
	longestWait = 5 * time.Second
)

// ReadBody reads a body of at most maxBytes. The error of one that is longer is
// ErrTooLong; that of one for which there is no room is fault.ErrTooManyBytes, and
// fault.ErrBusy if too many others are read before it; any other means that the body ended
// early. The body counts as in flight until the request ends.
func ReadBody(w http.ResponseWriter, r *http.Request, maxBytes int64) ([]byte, error) {
	if n := r.ContentLength; 0 <= n && n <= min(maxBytes, freeBytes) { // as mostly
		body := make([]byte, n)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	bytes := maxBytes
	if r.ContentLength >= 0 {
		bytes = min(bytes, r.ContentLength)
	}
	var shed atomic.Bool
	bound := inflight.FromContext(r.Context())
	if bound != nil && bytes > freeBytes {
		done, err := wait(r, bound.Read)
		if err != nil {
			return nil, err
		}
		defer done()
		release := bound.Hold(bytes, r.RemoteAddr, func() {
			shed.Store(true)
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		})
		if release == nil {
			return nil, fault.ErrTooManyBytes
		}
		context.AfterFunc(r.Context(), release)
	}
	body, err := readAll(http.MaxBytesReader(w, r.Body, maxBytes), min(r.ContentLength, maxBytes))
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return nil, ErrTooLong
	}
	if err != nil && shed.Load() {
		return nil, fault.ErrTooManyBytes
	}
	return body, err
}

// wait takes something that the client of a request waits for, until the request ends, and for
// longestWait at most. The error is fault.ErrBusy.
func wait[T any](r *http.Request, take func(ctx context.Context, from netip.Prefix) (T, error)) (T, error) {
	patient, cancel := context.WithTimeout(r.Context(), longestWait)
	defer cancel()
	taken, err := take(patient, ipaddr.ClientAt(r.RemoteAddr))
	if err != nil {
		err = fault.ErrBusy
	}
	return taken, err
}

// readAll reads a body of which the client says that it has n bytes. If n is negative, it has
// not said so.
func readAll(body io.Reader, n int64) ([]byte, error) {
	if n < 0 {
		return io.ReadAll(body)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(body, text); err != nil {
		return nil, err
	}
	_, err := body.Read(make([]byte, 1)) // a body that is longer than it may be
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return text, err
}

// A Turn is that of a large body, with the memory that it takes. A nil Turn is that of a
// small one.
type Turn struct {
	turn   *turns.Turn
	worked func() // nil: nothing is counted
}

// TakeTurn waits until a body may be decoded and decided, and returns a context with that
// turn. The turn has to end before a long reply is written: the client may not read it. The
// error is fault.ErrTooManyBytes or fault.ErrBusy.
func TakeTurn(t *turns.Turns, r *http.Request, body []byte) (context.Context, *Turn, error) {
	ctx := r.Context()
	if len(body) <= freeBytes { // as mostly
		return ctx, nil, nil
	}
	turn, err := wait(r, t.Take)
	if err != nil {
		return nil, nil, err
	}
	ctx = turns.NewContext(ctx, turn)
	taken := &Turn{turn: turn}
	if bound := inflight.FromContext(ctx); bound != nil {
		if taken.worked = bound.Work(int64(len(body))*decodedBytes, r.RemoteAddr); taken.worked == nil {
			turn.End()
			return nil, nil, fault.ErrTooManyBytes
		}
	}
	return ctx, taken, nil
}

// End ends a turn. More than once does no harm.
func (t *Turn) End() {
	if t == nil {
		return
	}
	t.turn.End()
	if t.worked != nil {
		t.worked()
		t.worked = nil
	}
}

// CheckUTF8 returns what is wrong with a JSON text that is not UTF-8, or that begins
// with a byte order mark. The decoder would only say that it does not know its first
// character.
func CheckUTF8(text []byte) error {
	const advice = "send JSON as UTF-8 without a byte order mark"
	switch {
	case bytes.HasPrefix(text, []byte("\xef\xbb\xbf")):
		return errors.New("begins with a byte order mark; " + advice)
	case bytes.HasPrefix(text, []byte("\xfe\xff")), bytes.HasPrefix(text, []byte("\xff\xfe")),
		len(text) >= 2 && (text[0] == 0) != (text[1] == 0):
		return errors.New("is UTF-16 text; " + advice)
	case !utf8.Valid(text):
		at := 0
		for r, size := utf8.DecodeRune(text); r != utf8.RuneError || size != 1; r, size = utf8.DecodeRune(text[at:]) {
			at += size
		}
		return fmt.Errorf("is not UTF-8 text, because of byte %d, which is 0x%02x; %s", at, text[at], advice)
	}
	return nil
}

// maxReasonBytes is how much is shown of why a text cannot be decoded. What quotes
// the text there is at most 100 bytes of it.
const maxReasonBytes = 120

// Undecodable returns what err of protojson says, which words the same error now with
// one kind of space and now with another.
func Undecodable(err error) string {
	reason := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
	if len(reason) <= maxReasonBytes {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReasonBytes], "") + "..."
}

// Objects returns how many objects a JSON text has. An empty one takes two bytes
// there and a hundred as a message, so that they are counted before it is decoded.
func Objects(text []byte) (n int) {
	inString := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			inString = !inString
		case inString && c == '\\':
			i++
		case !inString && c == '{':
			n++
		}
	}
	return n
}

// WriteMessage writes m as JSON with the fields that are false or 0, so that a
// denial says so.
func WriteMessage(w http.ResponseWriter, code int, m proto.Message) {
	code, body := Message(code, m)
	WriteText(w, code, body)
}

// Message returns what WriteMessage writes.
func Message(code int, m proto.Message) (int, []byte) {
	body, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil { // a name is not UTF-8, say
		return http.StatusInternalServerError, []byte(`{"code":13,"message":"the answer cannot be written as JSON"}`)
	}
	return code, body
}

var applicationJSON = []string{"application/json"}

// WriteText writes a JSON text and a new line, for which it may use the memory after it.
func WriteText(w http.ResponseWriter, code int, text []byte) {
	w.Header()["Content-Type"] = applicationJSON
	w.WriteHeader(code)
	_, _ = w.Write(append(text, '\n'))
}

// WriteError answers with err as the JSON of a google.rpc.Status. code is the
// HTTP status; 0 stands for the one that goes with err.
func WriteError(w http.ResponseWriter, code int, err error) {
	st := fault.Status(err)
	if code == 0 {
		code = fault.HTTPCode(st.Code())
	}
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if after, ok := fault.RetryAfter(st); ok {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10))
	}
	WriteMessage(w, code, st.Proto())
}

// WriteJSON writes v as indented JSON.
func WriteJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
