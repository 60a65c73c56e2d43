package httpapi

import (
	"bytes"
	"errors"
	"net/http"
	"regexp"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// The paths, which are the labels of their latency too.
const (
	PathShouldAllow = "/v1/should-allow"
	PathAuthorize   = "/v1/authorize"
)

// An API answers them.
type API struct {
	Core    *decide.Core
	Faults  *fault.Log
	Latency *histogram.Vec // by path
	Turns   *turns.Turns   // of large bodies

	idle sync.Pool // of *exchange
}

var noStore = []string{"no-store"}

// refuse answers a request that is wrong before the core can decide it.
func (a *API) refuse(w http.ResponseWriter, code int, field, format string, args ...any) {
	web.WriteError(w, code, a.Core.Refuse(field, format, args...))
}

const (
	// maxRequestBytes is how long the JSON of one request may be: longer than any that
	// is valid, however its names are escaped.
	maxRequestBytes = 64 << 10
	// maxRequestObjects is how many objects it may have: itself and one more limit than
	// is valid, for the core to refuse.
	maxRequestObjects = 1 + strategy.MaxLimits + 1
)

// body returns the body of a POST, or refuses the request.
func (a *API) body(w http.ResponseWriter, r *http.Request, maxBytes int64) (body []byte, ok bool) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		a.refuse(w, http.StatusMethodNotAllowed, "method", "%s; use POST", quote.Cut(r.Method))
		return nil, false
	}
	body, err := web.ReadBody(w, r, maxBytes)
	switch {
	case errors.Is(err, web.ErrTooLong):
		a.refuseLong(w, maxBytes)
		return nil, false
	case errors.Is(err, fault.ErrTooManyBytes), errors.Is(err, fault.ErrBusy):
		web.WriteError(w, 0, err)
		return nil, false
	case err != nil:
		a.refuse(w, http.StatusBadRequest, "body", "ended early")
		return nil, false
	}
	if err := web.CheckUTF8(body); err != nil {
		a.refuse(w, http.StatusBadRequest, "body", "%v", err)
		return nil, false
	}
	return body, true
}

// fits refuses a body that is too long, or has too many objects, for one request.
func (a *API) fits(w http.ResponseWriter, body []byte) (ok bool) {
	switch {
	case len(body) > maxRequestBytes:
		a.refuseLong(w, maxRequestBytes)
		return false
	case web.Objects(body) > maxRequestObjects:
		a.refuse(w, http.StatusBadRequest, "limits", "more than %d limits; give at most %[1]d", strategy.MaxLimits)
		return false
	}
	return true
}

func (a *API) refuseLong(w http.ResponseWriter, maxBytes int64) {
	a.refuse(w, http.StatusRequestEntityTooLarge, "body", "longer than %d bytes; no valid request is", maxBytes)
}

// decode sets in to what body says, or refuses the request.
func (a *API) decode(w http.ResponseWriter, body []byte, in proto.Message, example string) (ok bool) {
	if err := protojson.Unmarshal(upperNames(body), in); err != nil {
		a.refuse(w, http.StatusBadRequest, "body", "%s; send such as %s", web.Undecodable(err), example)
		return false
	}
	return true
}

// nameField matches a field whose value is one of some names, as configuration writes
// them. A text that holds these very characters has backslashes before its quotes, and
// so is not matched.
var nameField = regexp.MustCompile(`"(strategy|mode)"\s*:\s*"[a-z_]+"`)

// upperNames returns a JSON text with the names of strategies and modes in upper case,
// as the API has them: configuration files and the command line take either.
func upperNames(body []byte) []byte {
	return nameField.ReplaceAllFunc(body, func(field []byte) []byte {
		colon := bytes.IndexByte(field, ':')
		return append(field[:colon:colon], bytes.ToUpper(field[colon:])...)
	})
}
