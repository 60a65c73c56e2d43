// Package httplimit is middleware for net/http that holds requests to limits of ratelimitd.
//
//	http.ListenAndServe(":8000", httplimit.Limit(limiter, httplimit.ClientAddress())(mux))
//
// A request that is denied is answered 429 with application/problem+json, and each response
// has the fields RateLimit, RateLimit-Policy and Retry-After of
// draft-ietf-httpapi-ratelimit-headers-11.
package httplimit

import (
	"context"
	"encoding/json"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/internal/fields"
	"github.com/ratelimitd/ratelimitd/client/internal/identity"
	"github.com/ratelimitd/ratelimitd/client/internal/steps"
)

// Options say which requests are held to which limits.
type Options struct {
	// Rules are looked at in order. The first that matches a request holds; a request that
	// none matches has no limit.
	Rules []Rule
	// Shadow asks, and denies nobody: to try limits out. Responses say nothing of them.
	Shadow bool
	// Denied answers a request that is denied. The fields of the response are set already.
	// Nil is 429 and application/problem+json; or 503, if the failure policy denied.
	Denied func(http.ResponseWriter, *http.Request, client.Result)
	// OnResult is told each result, for metrics and logs. Nil is nobody.
	OnResult func(*http.Request, *client.Limiter, client.Result)
}

// A Rule is the limits of some requests.
type Rule struct {
	// Methods are those of the requests, such as "POST". None are all.
	Methods []string
	// Path is exactly that of the requests, or with a slash at its end also what is below
	// it. "" is all.
	Path string
	// By finds the identifier for each of the Steps that has no By of its own. It is called
	// once for a request.
	By Identifier
	// Steps are asked in order, and the first that denies answers. What those before it
	// have taken is not given back: put first what denies most for the least.
	Steps []Step
}

// A Step is a limiter that a request goes through.
type Step struct {
	Limiter *client.Limiter
	By      Identifier                 // nil: that of the Rule
	Cost    func(*http.Request) uint64 // nil: 1
}

// An Identifier finds who makes a request. client.Exempt is somebody who has no limit. All
// for whom it is "" share one identifier, "anonymous".
type Identifier func(*http.Request) string

// Header identifies callers by the value of a header. Use it for a header that a proxy of
// yours sets: a caller could send what he likes.
func Header(name string) Identifier {
	return func(r *http.Request) string { return r.Header.Get(name) }
}

// APIKey identifies callers by the key in a header. The daemon is told a hash of it.
func APIKey(header string) Identifier {
	return func(r *http.Request) string { return identity.APIKey(r.Header.Get(header)) }
}

// BearerSubject identifies callers by the subject of the JWT in the Authorization header, or
// by the hash of a token that is not a JWT. It does not verify the token: put it behind what
// does.
func BearerSubject() Identifier {
	return func(r *http.Request) string { return identity.BearerSubject(r.Header.Get("Authorization")) }
}

// ClientAddress identifies callers by their IP address, and with IPv6 by its network of 64
// bits. Behind proxies, name their networks, such as "10.0.0.0/8": then the address is the
// last in X-Forwarded-For that is not one of theirs. It panics if a network cannot be read.
func ClientAddress(trusted ...string) Identifier {
	proxies := identity.MustTrust(trusted)
	return func(r *http.Request) string {
		return proxies.ClientAddress(r.RemoteAddr, r.Header.Values("X-Forwarded-For"))
	}
}

// FirstOf identifies callers by the first of all that finds something.
func FirstOf(all ...Identifier) Identifier {
	return func(r *http.Request) string {
		for _, by := range all {
			if id := by(r); id != "" {
				return id
			}
		}
		return ""
	}
}

// Limit returns middleware that holds all requests to one limiter.
func Limit(l *client.Limiter, by Identifier) func(http.Handler) http.Handler {
	return New(Options{Rules: []Rule{{By: by, Steps: []Step{{Limiter: l}}}}})
}

// New returns middleware. It panics if a step has no limiter or no identifier, as that is a
// mistake in the program.
func New(o Options) func(http.Handler) http.Handler {
	o.Rules = slices.Clone(o.Rules)
	for i := range o.Rules {
		for _, s := range o.Rules[i].Steps {
			if s.Limiter == nil || s.By == nil && o.Rules[i].By == nil {
				panic("ratelimitd: httplimit: each step needs a Limiter, and a By of its own or of its rule")
			}
		}
	}
	if o.Denied == nil {
		o.Denied = deny
	}
	return func(next http.Handler) http.Handler { return &handler{o, next} }
}

type handler struct {
	o    Options
	next http.Handler
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rule := h.ruleOf(r)
	if rule == nil {
		h.next.ServeHTTP(w, r)
		return
	}
	c := h.callerOf(r, rule)
	all, denied := c.ask(r.Context(), c.steps)
	if !h.o.Shadow {
		set := fields.Of(all)
		for name, value := range map[string]string{fields.RateLimit: set.RateLimit, fields.Policy: set.Policy, fields.RetryAfter: set.RetryAfter} {
			if value != "" {
				w.Header()[name] = []string{value}
			}
		}
		if denied {
			h.o.Denied(w, r.WithContext(context.WithValue(r.Context(), violationsKey{}, set.Violated)), all[len(all)-1].Result)
			return
		}
		if steps.Hold(r.Context(), all) != nil {
			return // the client has gone
		}
	}
	h.next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
}

func (h *handler) ruleOf(r *http.Request) *Rule {
	at := r.URL.Path
	if at == "" || at[0] != '/' {
		at = "/" + at
	}
	clean := path.Clean(at) // or else //orders would be another path here, and the same in the service
	if strings.HasSuffix(at, "/") && clean != "/" {
		clean += "/"
	}
	for i := range h.o.Rules {
		rule := &h.o.Rules[i]
		if len(rule.Methods) > 0 && !slices.Contains(rule.Methods, r.Method) {
			continue
		}
		if rule.Path == "" || clean == rule.Path || strings.HasSuffix(rule.Path, "/") && strings.HasPrefix(clean+"/", rule.Path) {
			return rule
		}
	}
	return nil
}

// A Caller is who makes a request, under the identifiers that were found for it. A handler
// has it from FromContext.
type Caller struct {
	steps []steps.Step
	ask   func(context.Context, []steps.Step) ([]fields.Answer, bool)
}

func (h *handler) callerOf(r *http.Request, rule *Rule) *Caller {
	c := &Caller{steps: make([]steps.Step, len(rule.Steps))}
	common, found := "", false
	for i, s := range rule.Steps {
		id := ""
		switch {
		case s.By != nil:
			id = s.By(r)
		case found:
			id = common
		default:
			id = rule.By(r)
			common, found = id, true
		}
		if id == "" {
			id = identity.Anonymous
		}
		c.steps[i] = steps.Step{Limiter: s.Limiter, Identifier: id, Cost: 1}
		if s.Cost != nil {
			c.steps[i].Cost = s.Cost(r)
		}
	}
	var tell func(*client.Limiter, client.Result)
	if h.o.OnResult != nil {
		tell = func(l *client.Limiter, result client.Result) { h.o.OnResult(r, l, result) }
	}
	c.ask = func(ctx context.Context, all []steps.Step) ([]fields.Answer, bool) {
		return steps.Ask(ctx, all, h.o.Shadow, tell)
	}
	return c
}

type callerKey struct{}

// FromContext returns who makes the request of a handler, or nil if no rule matched it.
func FromContext(ctx context.Context) *Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	return c
}

// Allow asks the limiters of the request again, for one more thing that its caller does on
// it, such as a message of a WebSocket. It is safe for concurrent use, and a nil Caller is
// always allowed.
func (c *Caller) Allow(ctx context.Context, cost uint64) client.Result {
	result := client.Result{Allowed: true, Reason: client.ReasonUnlimited}
	if c == nil {
		return result
	}
	again := slices.Clone(c.steps)
	for i := range again {
		again[i].Cost = cost
	}
	all, denied := c.ask(ctx, again)
	if n := len(all); n > 0 {
		result = all[n-1].Result
	}
	result.Allowed = !denied
	return result
}

// violationsKey is the key of the names of the limits that denied a request.
type violationsKey struct{}

// A problem is the body of a denial, of RFC 9457 and the draft.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Violated []string `json:"violated-policies,omitempty"` // by their names in the fields
}

// deny answers a request that is denied.
func deny(w http.ResponseWriter, r *http.Request, result client.Result) {
	p := problem{Type: fields.QuotaExceeded, Title: "over the limit", Status: http.StatusTooManyRequests}
	p.Violated, _ = r.Context().Value(violationsKey{}).([]string)
	if result.Reason == client.ReasonFailure || result.Reason == client.ReasonStoreFailure {
		p.Type, p.Title, p.Status = "about:blank", http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // it has nothing that cannot be encoded
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n'))
}
