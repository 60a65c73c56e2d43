package envoyapi

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A counterState is what operators are shown of a descriptor.
type counterState struct {
	Domain     string      `json:"domain"`
	Identifier string      `json:"identifier"` // as hot keys have it
	Limit      string      `json:"limit"`      // its name in metrics
	ShadowMode bool        `json:"shadow_mode,omitempty"`
	QuotaMode  bool        `json:"quota_mode,omitempty"`
	Rates      []rateState `json:"rates"`
}

// A rateState is the state of one of its rates.
type rateState struct {
	Rate       string `json:"rate"`
	Strategy   string `json:"strategy"`
	Limit      uint64 `json:"limit,omitempty"` // none: it is unlimited, or the store failed
	Remaining  uint64 `json:"remaining"`
	Debt       uint64 `json:"debt,omitempty"` // what was taken beyond the limit
	ResetAfter string `json:"reset_after,omitempty"`
}

// ShowCounter answers GET /envoy?domain=d&entry=key=value: what the descriptor is held
// to, and what is left. It takes nothing.
func (a *API) ShowCounter(w http.ResponseWriter, r *http.Request) {
	request, m, err := a.counterOf(r.URL.Query())
	if err != nil {
		web.WriteError(w, 0, err)
		return
	}
	state := counterState{Domain: request.Namespace, Identifier: m.Identifier, Limit: m.Metric, ShadowMode: m.ShadowMode, QuotaMode: m.QuotaMode}
	batch := decide.NewBatch()
	defer batch.Free()
	batch.Requests = append(batch.Requests, request)
	a.o.Core.Decide(r.Context(), batch)
	answer := &batch.Answers[0]
	if answer.Err != nil {
		web.WriteError(w, 0, answer.Err)
		return
	}
	for i := range m.Parts {
		p := &m.Parts[i]
		rate := rateState{Rate: p.Rate.String(), Strategy: p.Strategy.String()}
		if i < len(answer.Decision.Statuses) && !p.Rate.IsUnlimited() {
			st := &answer.Decision.Statuses[i]
			rate.Limit, rate.Remaining, rate.Debt = st.Limit, st.Remaining, st.Debt
			rate.ResetAfter = st.ResetAfter.Round(time.Millisecond).String()
		}
		state.Rates = append(state.Rates, rate)
	}
	web.WriteJSON(w, state)
}

// ResetCounter answers POST /envoy/reset with the same query: it forgets what was taken.
func (a *API) ResetCounter(w http.ResponseWriter, r *http.Request) {
	request, _, err := a.counterOf(r.URL.Query())
	if err == nil {
		err = a.o.Core.Reset(r.Context(), &request)
	}
	if err != nil {
		web.WriteError(w, 0, err)
		return
	}
	web.WriteJSON(w, map[string]string{"reset": request.Identifier})
}

// counterOf returns what Counter does of the descriptor of a query.
func (a *API) counterOf(query url.Values) (request decide.Request, m envoy.Match, err error) {
	var wrong decide.InvalidError
	for name := range query {
		if name != "domain" && name != "entry" {
			wrong.Add("query", "unknown parameter %s; there are domain and entry", quote.Cut(name))
		}
	}
	if err := wrong.Err(); err != nil {
		return request, m, err
	}
	return a.Counter(query.Get("domain"), query["entry"])
}

// Counter returns what the core is asked of a descriptor, to look only, and the limit that the
// descriptor is held to. Each of entries is key=value.
func (a *API) Counter(domain string, entries []string) (request decide.Request, m envoy.Match, err error) {
	var wrong decide.InvalidError
	config := a.config.Load()
	read := make([]envoy.Entry, 0, len(entries))
	for _, text := range entries {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			wrong.Add("entry", "%s: write it as key=value, such as user=alice", quote.Cut(text))
		}
		read = append(read, envoy.Entry{Key: key, Value: value})
	}
	switch {
	case wrong.Violations != nil:
	case !config.Knows(domain):
		wrong.Add("domain", "%s is not configured; there are %s", quote.Cut(domain), quote.Cut(strings.Join(config.Domains(), ", ")))
	case len(read) == 0:
		wrong.Add("entry", "no entries; give one or several, such as entry=user=alice")
	default:
		if m = config.Match(domain, read); m.Limit == nil {
			wrong.Add("entry", "no limit applies to these entries; GET /rlconfig shows the limits")
		}
	}
	if err := wrong.Err(); err != nil {
		return request, m, err
	}
	limits := make([]strategy.Limit, len(m.Parts))
	for i := range m.Parts {
		limits[i] = m.Parts[i].Limit
		limits[i].Shadow = a.enforcesNothing(&m)
	}
	return decide.Request{Namespace: domain, Identifier: m.Identifier, Limits: limits, DryRun: true}, m, nil
}
