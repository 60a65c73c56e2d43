// Package httpapi is the front of the API over HTTP: as JSON, and for reverse
// proxies that ask whether to let a request pass. It decodes, calls the core, and
// encodes.
package httpapi

import (
	"net/http"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// The paths, which are the labels of their latency too.
const (
	PathShouldAllow = "/v1/should-allow"
	PathAuthorize   = "/v1/authorize"
)

// An API answers both paths.
type API struct {
	Core    *decide.Core
	Faults  *fault.Log
	Latency *histogram.Vec // by path
}

var noStore = []string{"no-store"}

// refuse answers a request that is wrong before the core can decide it.
func (a *API) refuse(w http.ResponseWriter, code int, field, format string, args ...any) {
	web.WriteError(w, code, a.Core.Refuse(field, format, args...))
}
