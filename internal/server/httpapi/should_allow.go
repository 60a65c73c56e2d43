package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

const (
	// maxBatchBytes is how long a batch may be: some thousand bytes for each request.
	maxBatchBytes = 1 << 20
	// maxBatchObjects is how many objects it may have: as maxRequestObjects for each
	// of one request more than is valid, and itself.
	maxBatchObjects = 1 + (apiv1.MaxBatch+1)*(1+strategy.MaxLimits)

	exampleRequest = `{"namespace": "checkout", "identifier": "user:42", "limits": [{"rate": "100/min"}]}`
	exampleBatch   = `{"requests": [` + exampleRequest + `]}`
)

// ShouldAllow answers POST /v1/should-allow: ShouldAllow as JSON, or ShouldAllowBatch
// if the body has requests.
func (a *API) ShouldAllow(w http.ResponseWriter, r *http.Request) {
	body, ok := a.body(w, r, maxBatchBytes)
	if !ok {
		return
	}
	defer a.Latency.Of(PathShouldAllow).Since(histogram.Start())
	if isBatch(body) {
		a.shouldAllowBatch(w, r, body)
		return
	}
	in := new(ratelimitv1.ShouldAllowRequest)
	if !a.fits(w, body) || !a.decode(w, body, in, exampleRequest) {
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

// isBatch reports whether a JSON text is an object with a field requests.
func isBatch(body []byte) bool {
	if !bytes.Contains(body, []byte(`"requests"`)) { // as mostly
		return false
	}
	var fields struct {
		Requests *json.RawMessage `json:"requests"`
	}
	return json.Unmarshal(body, &fields) == nil && fields.Requests != nil
}

// shouldAllowBatch answers a batch. Its answers are many, so that it has no headers of
// limits.
func (a *API) shouldAllowBatch(w http.ResponseWriter, r *http.Request, body []byte) {
	in := new(ratelimitv1.ShouldAllowBatchRequest)
	if web.Objects(body) > maxBatchObjects {
		a.refuse(w, http.StatusBadRequest, "requests", "more than %d requests, or more than %d limits in them; send fewer", apiv1.MaxBatch, strategy.MaxLimits)
		return
	}
	if !a.decode(w, body, in, exampleBatch) {
		return
	}
	if n := len(in.GetRequests()); n == 0 || n > apiv1.MaxBatch {
		a.refuse(w, http.StatusBadRequest, "requests", "%d requests; send 1 to %d", n, apiv1.MaxBatch)
		return
	}
	batch := decide.NewBatch()
	defer batch.Free()
	var decoder apiv1.Decoder
	batch.Requests = decide.Resized(batch.Requests, len(in.GetRequests()))
	for i, request := range in.GetRequests() {
		decoder.Request(&batch.Requests[i], request)
	}
	w.Header()["Cache-Control"] = noStore
	a.Core.Decide(r.Context(), batch)
	var encoder apiv1.Encoder
	encoder.Begin(batch)
	out := new(ratelimitv1.ShouldAllowBatchResponse)
	for i := range batch.Answers {
		answer := &batch.Answers[i]
		if answer.Err != nil {
			out.Results = append(out.Results, fault.Result(answer.Err))
			continue
		}
		response := &ratelimitv1.ShouldAllowResult_Response{Response: encoder.Response(answer)}
		out.Results = append(out.Results, &ratelimitv1.ShouldAllowResult{Result: response})
	}
	web.WriteMessage(w, http.StatusOK, out)
}
