package httpapi

import (
	"net/http"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// ShouldAllow answers POST /v1/should-allow: ShouldAllow as JSON, or ShouldAllowBatch
// if the body has requests.
func (a *API) ShouldAllow(w http.ResponseWriter, r *http.Request) {
	body, ok := a.body(w, r, maxBatchBytes)
	if !ok {
		return
	}
	defer a.Latency.Of(PathShouldAllow).Since(histogram.Start())
	ctx, turn, err := web.TakeTurn(a.Turns, r, body)
	if err != nil {
		web.WriteError(w, 0, err)
		return
	}
	defer turn.End()
	e := a.exchange()
	defer a.free(e)
	if !a.read(w, e, body) {
		return
	}
	requests := e.asked.GetRequests()
	e.batch.Requests = decide.Resized(e.batch.Requests, len(requests))
	for i, request := range requests {
		e.decoder.Request(&e.batch.Requests[i], request)
	}
	w.Header()["Cache-Control"] = noStore
	if e.single {
		turn.End() // it waits for a store, and has little left to do
	}
	a.Core.Decide(ctx, &e.batch)
	e.write(w, r, turn)
}
