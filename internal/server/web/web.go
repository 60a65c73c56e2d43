// Package web has what the HTTP fronts share: it reads bodies within bounds, and
// writes JSON.
package web

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/server/fault"
)

// ErrTooLong is wrapped by the error of a body that is longer than it may be.
var ErrTooLong = errors.New("too long")

// ReadBody reads a body of at most maxBytes. The error of one that is longer is
// ErrTooLong; any other means that the body ended early.
func ReadBody(w http.ResponseWriter, r *http.Request, maxBytes int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBytes))
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return nil, ErrTooLong
	}
	return body, err
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
	body, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil { // a name is not UTF-8, say
		code, body = http.StatusInternalServerError, []byte(`{"code":13,"message":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
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
