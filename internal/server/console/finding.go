package console

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// maxPolicies is how many policies of a namespace are looked up at a time.
const maxPolicies = 50

// A question asks about an identifier. Without a policy and a rate it is about all policies
// of the namespace.
type question struct {
	Namespace  string `json:"namespace"`
	Identifier string `json:"identifier"`
	Policy     string `json:"policy"`
	// A limit that requests bring along.
	Rate     string `json:"rate"`
	Strategy string `json:"strategy"`
	Burst    uint64 `json:"burst"`
	Name     string `json:"name"`
	// Entries are those of a descriptor of Envoy, each key=value. Its domain is Namespace, and
	// nothing else of the above is given.
	Entries []string `json:"entries"`

	Cost uint64 `json:"cost"`
}

// A finding is what is known of an identifier.
type finding struct {
	Namespace  string         `json:"namespace"`
	Identifier string         `json:"identifier"`
	Cost       uint64         `json:"cost"`
	OnError    string         `json:"on_error"`
	Exempt     *string        `json:"exempt"` // the pattern; nil: it is not
	Policies   []policyAnswer `json:"policies"`
	LeftOut    int            `json:"left_out"`
}

// A policyAnswer is what a request would get, by one policy.
type policyAnswer struct {
	Policy   string        `json:"policy"`             // "" of a limit in the request
	Rule     string        `json:"rule,omitempty"`     // of a descriptor: the limit that matches, as metrics name it
	Quota    bool          `json:"quota,omitempty"`    // it denies nothing, and Envoy is told what is left
	Override string        `json:"override,omitempty"` // the pattern that matches; "": none does
	Problem  string        `json:"problem,omitempty"`  // why there is no answer
	Allowed  bool          `json:"allowed"`
	Outcome  string        `json:"outcome"`
	Limits   []limitAnswer `json:"limits"`
	Wait     *float64      `json:"retry_after_seconds"` // nil: it need not, or it is no use
	Never    bool          `json:"never"`               // the cost is above what a limit ever allows
}

// A limitAnswer is the state of a limit.
type limitAnswer struct {
	Limit     string   `json:"limit"` // its name, or what it is
	Rule      string   `json:"rule"`
	Shadow    bool     `json:"shadow"`
	Unlimited bool     `json:"unlimited"`
	Most      uint64   `json:"most"` // that is ever allowed
	Remaining uint64   `json:"remaining"`
	Debt      uint64   `json:"debt"`
	Allowed   bool     `json:"allowed"` // by this limit alone
	Reset     float64  `json:"reset_after_seconds"`
	Wait      *float64 `json:"retry_after_seconds"`
	Never     bool     `json:"never"`
}

// describe says what a limit holds callers to.
func describe(l *strategy.Limit) string {
	if l.Rate.IsUnlimited() {
		return "unlimited"
	}
	text := l.Rate.String() + string(l.AppendCalendar(nil)) + " " + l.Strategy.String()
	if l.Capacity != l.Rate.Count {
		text += fmt.Sprintf(", burst %d", l.Capacity)
	}
	return text
}

// find answers q by policies and what ask decides.
func (q *question) find(policies *policy.Config, onError policy.OnError, ask func(*decide.Batch) error) (*finding, error) {
	requests, leftOut, err := q.requests(policies)
	if err != nil {
		return nil, err
	}
	ns := policies.Namespace(q.Namespace)
	found := &finding{Namespace: q.Namespace, Identifier: q.Identifier, Cost: q.Cost, OnError: string(ns.OnError(onError)), Policies: []policyAnswer{}, LeftOut: leftOut}
	if pattern, exempt := ns.Exemption(q.Identifier); exempt {
		found.Exempt = &pattern
	}
	batch := decide.NewBatch()
	defer batch.Free()
	batch.Requests = append(batch.Requests, requests...)
	if err := ask(batch); err != nil {
		return nil, err
	}
	for i := range batch.Answers {
		answer := answerOf(&batch.Answers[i])
		if answer.Policy = requests[i].Policy; answer.Policy != "" {
			_, answer.Override = ns.Policy(answer.Policy).Match(q.Identifier)
		}
		found.Policies = append(found.Policies, answer)
	}
	return found, nil
}

// requests returns what the core is asked, to look only. The error says what is wrong with
// q.
func (q *question) requests(policies *policy.Config) (all []decide.Request, leftOut int, err error) {
	var wrong decide.InvalidError
	one := decide.Request{Namespace: q.Namespace, Identifier: q.Identifier, Cost: q.Cost, DryRun: true, Aside: true}
	known := policies.Namespace(q.Namespace).Policies()
	switch {
	case q.Namespace == "":
		wrong.Add("namespace", "empty; give one, such as checkout")
	case q.Identifier == "":
		wrong.Add("identifier", "empty; give one, such as user:42")
	case q.Rate != "":
		spec := strategy.Spec{Rate: q.Rate, Burst: q.Burst, Name: q.Name}
		if q.Strategy != "" {
			if spec.Strategy, err = strategy.Parse(q.Strategy); err != nil {
				wrong.Add("strategy", "%v", err)
			}
		}
		one.Specs = []strategy.Spec{spec}
		all = append(all, one)
	case q.Policy != "":
		if known[q.Policy] == nil {
			wrong.Add("policy", "namespace %s has no policy %s", quote.Cut(q.Namespace), quote.Cut(q.Policy))
		}
		one.Policy = q.Policy
		all = append(all, one)
	case len(known) == 0:
		wrong.Add("namespace", "%s has no policies; if its callers send limits, give the rate of one, such as 100/min", quote.Cut(q.Namespace))
	default:
		names := slices.Sorted(maps.Keys(known))
		leftOut = max(0, len(names)-maxPolicies)
		for _, one.Policy = range names[:len(names)-leftOut] {
			all = append(all, one)
		}
	}
	return all, leftOut, wrong.Err()
}

// answerOf says what the core has answered.
func answerOf(a *decide.Answer) policyAnswer {
	if a.Err != nil {
		return policyAnswer{Problem: a.Err.Error(), Limits: []limitAnswer{}}
	}
	out := policyAnswer{Allowed: a.Decision.Allowed, Outcome: strings.ReplaceAll(a.Outcome.String(), "_", " "), Limits: []limitAnswer{}}
	if !out.Allowed {
		out.Wait, out.Never = seconds(a.Decision.RetryAfter)
	}
	for i := range a.Decision.Statuses {
		st, l := &a.Decision.Statuses[i], &a.Limits[i]
		limit := limitAnswer{
			Limit: l.Counter(), Rule: describe(l), Shadow: l.Shadow, Unlimited: l.Rate.IsUnlimited(),
			Allowed: st.Allowed, Reset: st.ResetAfter.Seconds(),
		}
		if !limit.Unlimited {
			limit.Most, limit.Remaining, limit.Debt = st.Limit, st.Remaining, st.Debt
		}
		if !st.Allowed {
			limit.Wait, limit.Never = seconds(st.RetryAfter)
		}
		out.Limits = append(out.Limits, limit)
	}
	return out
}

func seconds(wait time.Duration) (after *float64, never bool) {
	if wait == strategy.Never {
		return nil, true
	}
	return new(wait.Seconds()), false
}
