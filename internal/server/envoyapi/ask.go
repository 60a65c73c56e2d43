package envoyapi

import (
	"context"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
)

// A Question is a request of this process itself, such as one that an access log has.
type Question struct {
	Domain      string
	Descriptors [][]envoy.Entry
	Hits        uint64 // of each descriptor
}

// A Ruling is what became of one descriptor of a Question. It is good for reading until the
// next question.
type Ruling struct {
	Match  *envoy.Match // its Limit is nil if no limit applies: then there is no more
	Asked  *decide.Request
	Answer *decide.Answer
}

// Ask decides q as if Envoy had asked it, and calls rule for each of its descriptors. It
// reports whether the request is over its limits.
func (a *API) Ask(ctx context.Context, q *Question, rule func(i int, r Ruling)) (over bool, err error) {
	in := request{domain: q.Domain}
	for _, entries := range q.Descriptors {
		first := len(in.entries)
		in.entries = append(in.entries, entries...)
		in.descriptors = append(in.descriptors, descriptor{first: first, last: len(in.entries), hits: &q.Hits})
	}
	e := a.exchanges.Get().(*exchange)
	defer a.free(e)
	if err := a.match(ctx, e, &in); err != nil {
		return false, err
	}
	a.gather(e, &in)
	a.o.Core.Decide(ctx, &e.batch)
	if over, err = a.judge(e); err != nil {
		return false, err
	}
	for i := range e.matches {
		r := Ruling{Match: &e.matches[i]}
		if place := e.places[i]; place >= 0 {
			r.Asked, r.Answer = &e.batch.Requests[place], &e.batch.Answers[place]
		}
		rule(i, r)
	}
	return over, nil
}
