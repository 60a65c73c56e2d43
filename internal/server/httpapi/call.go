package httpapi

import (
	"context"
	"net/http"

	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// A message is a message of the API that is T.
type message[T any] interface {
	*T
	proto.Message
}

// call returns the handler of a path at which do is called with the JSON of an In.
// example is a right body.
func call[In, Out any, I message[In], O message[Out]](a *API, do func(context.Context, I) (O, error), example string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, ok := a.body(w, r, maxRequestBytes)
		if !ok {
			return
		}
		ctx, turn, err := web.TakeTurn(a.Turns, r, body)
		if err != nil {
			web.WriteError(w, 0, err)
			return
		}
		defer turn.End()
		in := I(new(In))
		if !a.fits(w, body) || !a.decode(w, body, in, example) {
			return
		}
		turn.End() // what follows waits for a store
		w.Header()["Cache-Control"] = noStore
		out, err := do(ctx, in)
		if err != nil {
			web.WriteError(w, 0, err)
			return
		}
		web.WriteMessage(w, http.StatusOK, out)
	}
}
