package envoyapi

import (
	"errors"
	"fmt"
	"net/http"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

const (
	// maxBodyBytes is how long the body of POST /json may be.
	maxBodyBytes = 1 << 20
	// maxObjects is how many JSON objects it may have: those of the most
	// descriptors with ten entries each.
	maxObjects = 1 + maxDescriptors*(1+10)
)

// ServeJSON answers POST /json: ShouldRateLimit, with its messages as JSON. The
// status is 200, or 429 if the request is over a limit.
func (a *API) ServeJSON(w http.ResponseWriter, r *http.Request) {
	body, err := web.ReadBody(w, r, min(maxBodyBytes, a.o.MaxBodyBytes))
	switch {
	case errors.Is(err, web.ErrTooLong):
		http.Error(w, fmt.Sprintf("the body is longer than %d bytes", min(maxBodyBytes, a.o.MaxBodyBytes)), http.StatusRequestEntityTooLarge)
		return
	case errors.Is(err, fault.ErrTooManyBytes), errors.Is(err, fault.ErrBusy):
		web.WriteError(w, 0, err)
		return
	case err != nil:
		http.Error(w, "the body cannot be read: "+err.Error(), http.StatusBadRequest)
		return
	}
	_, turn, err := web.TakeTurn(a.o.Turns, r, body)
	if err != nil {
		web.WriteError(w, 0, err)
		return
	}
	defer turn.End()
	if web.Objects(body) > maxObjects {
		http.Error(w, fmt.Sprintf("the body has more than %d objects; send fewer descriptors and entries", maxObjects), http.StatusRequestEntityTooLarge)
		return
	}
	if err := web.CheckUTF8(body); err != nil {
		http.Error(w, "the body "+err.Error(), http.StatusBadRequest)
		return
	}
	message := &rlsv3.RateLimitRequest{}
	if err := protojson.Unmarshal(body, message); err != nil {
		http.Error(w, fmt.Sprintf("the body is not a RateLimitRequest: %s; send one such as "+
			`{"domain": "edge", "descriptors": [{"entries": [{"key": "user", "value": "alice"}]}]}`, web.Undecodable(err)), http.StatusBadRequest)
		return
	}
	in := new(request)
	in.fromMessage(message)
	turn.End() // what follows waits for a store, or is soon done
	out, err := a.shouldRateLimit(r.Context(), in)
	a.calls.failed(err)
	if err != nil {
		code := http.StatusServiceUnavailable
		if c := status.Code(err); c == codes.InvalidArgument || c == codes.Unauthenticated || c == codes.PermissionDenied {
			code = fault.HTTPCode(c)
		}
		http.Error(w, status.Convert(err).Message(), code)
		return
	}
	text, err := protojson.Marshal(out)
	if err != nil {
		http.Error(w, "the answer cannot be written: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if out.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_, _ = w.Write(text)
}
