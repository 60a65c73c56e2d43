// Package httpapi is the front of the API over HTTP: as JSON, and for reverse
// proxies that ask whether to let a request pass. It decodes, calls the core, and
// encodes.
package httpapi

import (
	"net/http"

	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
)

// Handle has mux answer the paths of the API that services ask, but for those of ShouldAllow
// and Authorize. guard keeps others from asking them, and guardReset those who may not reset.
func (a *API) Handle(mux *http.ServeMux, guard, guardReset func(http.Handler) http.HandlerFunc) {
	service := apiv1.Service{Core: a.Core}
	mux.HandleFunc("/v1/reset", guardReset(call(a, service.Reset, exampleRequest)))
	mux.HandleFunc("/v1/reserve", guard(call(a, service.Reserve, `{"request": `+exampleRequest+`}`)))
	mux.HandleFunc("/v1/commit", guard(call(a, service.Commit, `{"reservation": "AQ...", "actual": 400}`)))
	mux.HandleFunc("/v1/cancel", guard(call(a, service.Cancel, `{"reservation": "AQ..."}`)))
}
