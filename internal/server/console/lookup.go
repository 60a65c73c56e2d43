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
	ask := func(b *decide.Batch) error {
		d.Core.Decide(auth.NewContext(r.Context(), operator), b)
		return nil
	}
	var found *finding
	var err error
	if q.Entries != nil {
		found, err = d.findDescriptor(&q, ask)
	} else {
		found, err = q.find(d.Configuration().Policies, d.OnError, ask)
	}
	if err != nil {
		web.WriteError(w, 0, err)
		return
	}
	web.WriteJSON(w, found)
}

// findDescriptor answers a question about a descriptor of Envoy.
func (d desk) findDescriptor(q *question, ask func(*decide.Batch) error) (*finding, error) {
	request, match, err := d.Counter(q.Namespace, q.Entries)
	if err != nil {
		return nil, err
	}
	request.Cost, request.Aside = q.Cost, true
	batch := decide.NewBatch()
	defer batch.Free()
	batch.Requests = append(batch.Requests, request)
	if err := ask(batch); err != nil {
		return nil, err
	}
	answer := answerOf(&batch.Answers[0])
	answer.Rule, answer.Quota = match.Metric, match.QuotaMode
	return &finding{Namespace: q.Namespace, Identifier: match.Identifier, Cost: q.Cost, OnError: string(d.OnError), Policies: []policyAnswer{answer}}, nil
}

// reset answers POST /console/reset: it forgets what an identifier has consumed from the
// limits of one policy, or from one that requests bring along. The log says who did it.
func (d desk) reset(w http.ResponseWriter, r *http.Request) {
	var q question
	if !read(w, r, maxQuestionBytes, &q) {
		return
	}
	request, err := d.toReset(&q)
	if err == nil {
		err = d.Core.Reset(auth.NewContext(r.Context(), operator), &request)
	}
	if err != nil {
		web.WriteError(w, 0, err)
		return
	}
	d.Logger.Warn("an identifier was reset on the console", "namespace", q.Namespace, "identifier", request.Identifier, "policy", q.Policy, "rate", q.Rate, "by", who(r))
	web.WriteJSON(w, map[string]string{"reset": request.Identifier})
}

// toReset returns the request for which q is to be reset.
func (d desk) toReset(q *question) (decide.Request, error) {
	if q.Entries != nil {
		request, _, err := d.Counter(q.Namespace, q.Entries)
		return request, err
	}
	if q.Policy == "" && q.Rate == "" {
		var wrong decide.InvalidError
		wrong.Add("policy", "empty; name the policy whose limits are to be reset")
		return decide.Request{}, wrong.Err()
	}
	requests, _, err := q.requests(d.Configuration().Policies)
	if err != nil {
		return decide.Request{}, err
	}
	return requests[0], nil
}
