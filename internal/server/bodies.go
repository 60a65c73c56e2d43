package server

import (
	"net/http"
	"time"
)

// bodyTimeout is how long a request to the admin port may take to bring its body. The port
// has no timeout for all of a request: a profile takes as long as it is asked for.
const bodyTimeout = 5 * time.Second

// bodiesInTime has a client bring its body in time.
func bodiesInTime(most time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(most)) // HTTP/1 and HTTP/2 can do it
		}
		next.ServeHTTP(w, r)
	})
}
