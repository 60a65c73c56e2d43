package console

import (
	"net/http"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// A desk looks identifiers up, and resets them.
type desk struct{ *Options }

// lookUp answers POST /console/look-up. It consumes nothing.
func (d desk) lookUp(w http.ResponseWriter, r *http.Request) {
	var q question
	if !read(w, r, maxQuestionBytes, &q) {
		return
	}
	found, err := q.find(d.Configuration().Policies, d.OnError, func(b *decide.Batch) error {
		d.Core.Decide(auth.NewContext(r.Context(), operator), b)
		return nil
	})
	if err != nil {
		web.WriteError(w, 0, err)
		return
	}
	web.WriteJSON(w, found)
}

// reset answers POST /console/reset: it forgets what an identifier has consumed from the
// limits of one policy, or from one that requests bring along. The log says who did it.
func (d desk) reset(w http.ResponseWriter, r *http.Request) {
	var q question
	if !read(w, r, maxQuestionBytes, &q) {
		return
	}
	if q.Policy == "" && q.Rate == "" {
		http.Error(w, "policy: empty; name the policy whose limits are to be reset", http.StatusBadRequest)
		return
	}
	requests, _, err := q.requests(d.Configuration().Policies)
	if err == nil {
		err = d.Core.Reset(auth.NewContext(r.Context(), operator), &requests[0])
	}
	if err != nil {
		web.WriteError(w, 0, err)
		return
	}
	d.Logger.Warn("an identifier was reset on the console", "namespace", q.Namespace, "identifier", q.Identifier, "policy", q.Policy, "rate", q.Rate, "by", who(r))
	web.WriteJSON(w, map[string]string{"reset": q.Identifier})
}
