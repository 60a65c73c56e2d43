package httpapi

import (
	"bytes"
	"errors"
	"net/http"
	"regexp"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

const (
	// maxBodyBytes is how long the body of a request may be: longer than any
	// that is valid, however its names are escaped.
	maxBodyBytes = 64 << 10
	// maxObjects is how many JSON objects it may have: one more limit than is
	// valid, for the core to refuse.
	maxObjects = 1 + strategy.MaxLimits + 1
)

// ShouldAllow answers POST /v1/should-allow: ShouldAllow as JSON.
func (a *API) ShouldAllow(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		a.refuse(w, http.StatusMethodNotAllowed, "method", "%s; use POST", quote.Cut(r.Method))
		return
	}
	body, err := web.ReadBody(w, r, maxBodyBytes)
	switch {
	case errors.Is(err, web.ErrTooLong):
		a.refuse(w, http.StatusRequestEntityTooLarge, "body", "longer than %d bytes; no valid request is", maxBodyBytes)
		return
	case err != nil:
		a.refuse(w, http.StatusBadRequest, "body", "ended early")
		return
	case web.Objects(body) > maxObjects:
		a.refuse(w, http.StatusBadRequest, "limits", "more than %d limits; give at most %[1]d", strategy.MaxLimits)
		return
	}
	if err := web.CheckUTF8(body); err != nil {
		a.refuse(w, http.StatusBadRequest, "body", "%v", err)
		return
	}
	defer a.Latency.Of(PathShouldAllow).Since(histogram.Start())
	in := new(ratelimitv1.ShouldAllowRequest)
	if err := protojson.Unmarshal(upperNames(body), in); err != nil {
		a.refuse(w, http.StatusBadRequest, "body", "%s", web.Undecodable(err)+`; send such as {"namespace": "checkout", "identifier": "user:42", "limits": [{"rate": "100/min"}]}`)
		return
	}

	batch := decide.NewBatch()
	defer batch.Free()
	var decoder apiv1.Decoder
	batch.Requests = append(batch.Requests, decide.Request{})
	decoder.Request(&batch.Requests[0], in)
	a.decide(w, r, batch)
	answer := &batch.Answers[0]
	if answer.Err != nil {
		web.WriteError(w, 0, answer.Err)
		return
	}
	var encoder apiv1.Encoder
	encoder.Begin(batch)
	web.WriteMessage(w, http.StatusOK, encoder.Response(answer))
}

// decide decides the one request of batch, and sets the headers of its answer.
func (a *API) decide(w http.ResponseWriter, r *http.Request, batch *decide.Batch) {
	w.Header()["Cache-Control"] = noStore
	a.Core.Decide(r.Context(), batch)
	if answer := &batch.Answers[0]; answer.Err == nil {
		setRateLimitHeaders(w.Header(), answer)
	}
}

// nameField matches a limit's strategy, and a mode, as configuration and the command
// line write it. A text that holds these very characters has backslashes before its
// quotes, and so is not matched.
var nameField = regexp.MustCompile(`"(strategy|mode)"\s*:\s*"[a-z_]+"`)

// upperNames returns a JSON text with the names of strategies and modes in upper case,
// as the API has them: configuration files and the command line take either.
func upperNames(body []byte) []byte {
	return nameField.ReplaceAllFunc(body, func(field []byte) []byte {
		colon := bytes.IndexByte(field, ':')
		return append(field[:colon:colon], bytes.ToUpper(field[colon:])...)
	})
}
