package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/httpapi/codec"
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

// An exchange is what a body asks, one request or a batch, and the answer. Its memory is
// used again. The zero exchange is ready for use.
type exchange struct {
	asked  ratelimitv1.ShouldAllowBatchRequest
	single bool // what is asked is one request, and no batch

	batch   decide.Batch
	decoder apiv1.Decoder
	encoder apiv1.Encoder
	quotas  quotas
	text    []byte // the answer as JSON
}

// What an exchange may have grown to whose memory is kept: a few large batches are not to
// hold on to theirs.
const (
	maxKept      = 256 // requests
	maxKeptBytes = 64 << 10
)

// exchange returns an exchange in which nothing is asked yet.
func (a *API) exchange() *exchange {
	if e, ok := a.idle.Get().(*exchange); ok {
		return e
	}
	return new(exchange)
}

// free makes e available to other bodies, if it is not too large. Nobody may use it after.
func (a *API) free(e *exchange) {
	if len(e.asked.GetRequests()) > maxKept || cap(e.text) > maxKeptBytes {
		return
	}
	for _, request := range e.asked.GetRequests() {
		if len(request.GetLimits()) > strategy.MaxLimits {
			return
		}
	}
	e.asked.ResetVT()
	e.batch.Clear()
	e.decoder.Clear()
	e.encoder.Clear()
	a.idle.Put(e)
}

// first returns the request of e that is to be the only one.
func (e *exchange) first() *ratelimitv1.ShouldAllowRequest {
	if requests := e.asked.GetRequests(); cap(requests) > 0 && requests[:1][0] != nil {
		e.asked.Requests = requests[:1]
	} else {
		e.asked.Requests = []*ratelimitv1.ShouldAllowRequest{{}}
	}
	return e.asked.Requests[0]
}

// read sets what e asks to what a body says, or refuses the body.
func (a *API) read(w http.ResponseWriter, e *exchange, body []byte) (ok bool) {
	text := string(body) // the names in it are parts of it
	if e.single = len(text) <= maxRequestBytes && codec.Request(text, e.first()); e.single {
		return true
	}
	e.asked.ResetVT()
	const field = `"requests"`
	mayBeBatch := bytes.Contains(body, []byte(field))
	if mayBeBatch {
		if codec.Batch(text, &e.asked) { // as nearly all are
			return a.fitsBatch(w, e)
		}
		e.asked.Reset() // it may have become large
	}
	if !mayBeBatch || !isBatch(body) {
		e.single = true
		return a.fits(w, body) && a.decode(w, body, e.first(), exampleRequest)
	}
	if web.Objects(body) > maxBatchObjects {
		a.refuse(w, http.StatusBadRequest, "requests", "more than %d requests, or more than %d limits in them; send fewer", apiv1.MaxBatch, strategy.MaxLimits)
		return false
	}
	return a.decode(w, body, &e.asked, exampleBatch) && a.fitsBatch(w, e)
}

// fitsBatch refuses a batch with too few or too many requests.
func (a *API) fitsBatch(w http.ResponseWriter, e *exchange) (ok bool) {
	if n := len(e.asked.GetRequests()); n == 0 || n > apiv1.MaxBatch {
		a.refuse(w, http.StatusBadRequest, "requests", "%d requests; send 1 to %d", n, apiv1.MaxBatch)
		return false
	}
	return true
}

// isBatch reports whether a JSON text is an object with a field requests.
func isBatch(body []byte) bool {
	var fields struct {
		Requests *json.RawMessage `json:"requests"`
	}
	return json.Unmarshal(body, &fields) == nil && fields.Requests != nil
}

// What an error in the answer to a batch takes until it is written, and each limit of its
// request besides: far more than a decision, for a request that may be "{}". It is how much
// was allocated for 1,000 of these, and for 1,000 of 16 limits that are "{}".
const (
	errorBytes      = 10_000
	errorLimitBytes = 2_500
	freeErrorBytes  = 16 * errorBytes // is not counted
)

// holdErrors counts what the errors of e take, until release is called. It returns nil if
// there is no room for that.
func (e *exchange) holdErrors(r *http.Request) (release func()) {
	taken := 0
	for i := range e.batch.Answers {
		if e.batch.Answers[i].Err != nil {
			taken += errorBytes + len(e.asked.GetRequests()[i].GetLimits())*errorLimitBytes
		}
	}
	bound := inflight.FromContext(r.Context())
	if taken <= freeErrorBytes || bound == nil {
		return func() {}
	}
	return bound.Work(int64(taken), r.RemoteAddr)
}

// write answers with what e says. A batch has many answers, and so no headers of limits.
func (e *exchange) write(w http.ResponseWriter, r *http.Request, turn *web.Turn) {
	if e.single {
		e.writeSingle(w, &e.batch.Answers[0])
	} else {
		e.writeBatch(w, r, turn)
	}
}

func (e *exchange) writeSingle(w http.ResponseWriter, answer *decide.Answer) {
	if answer.Err != nil {
		web.WriteError(w, 0, answer.Err)
		return
	}
	e.quotas.setHeaders(w.Header(), answer)
	e.encoder.Begin(&e.batch)
	response := e.encoder.Response(answer)
	var usual bool
	if e.text, usual = codec.AppendResponse(e.text[:0], response); usual {
		web.WriteText(w, http.StatusOK, e.text)
	} else {
		web.WriteMessage(w, http.StatusOK, response)
	}
}

// writeBatch ends the turn before it writes, and keeps no memory of a large batch meanwhile
// but the text: whoever asked may not read.
func (e *exchange) writeBatch(w http.ResponseWriter, r *http.Request, turn *web.Turn) {
	release := e.holdErrors(r)
	if release == nil {
		web.WriteError(w, 0, fault.ErrTooManyBytes)
		return
	}
	code := e.encodeBatch(release)
	if len(e.asked.GetRequests()) > maxKept {
		*e = exchange{text: e.text}
	}
	turn.End()
	web.WriteText(w, code, e.text)
}

// encodeBatch makes the text of the answer to a batch, and then calls release.
func (e *exchange) encodeBatch(release func()) (code int) {
	defer release()
	e.encoder.Begin(&e.batch)
	out := new(ratelimitv1.ShouldAllowBatchResponse)
	for i := range e.batch.Answers {
		answer := &e.batch.Answers[i]
		if answer.Err != nil {
			out.Results = append(out.Results, fault.Result(answer.Err))
			continue
		}
		response := &ratelimitv1.ShouldAllowResult_Response{Response: e.encoder.Response(answer)}
		out.Results = append(out.Results, &ratelimitv1.ShouldAllowResult{Result: response})
	}
	code, usual := http.StatusOK, false
	if e.text, usual = codec.AppendBatch(e.text[:0], out); !usual {
		code, e.text = web.Message(code, out)
	}
	return code
}
