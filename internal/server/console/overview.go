package console

import (
	"cmp"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

const (
	// maxRows is how many limits and namespaces the page shows: those denied, or asked,
	// most.
	maxRows = 100
	// maxIdentifiers is how many identifiers are shown of each limit.
	maxIdentifiers = 10
	// maxKeys is how many are shown of who asks most.
	maxKeys = 20
	// stepsShown of a series are shown as one, but for that of all namespaces.
	stepsShown = 3
)

// An overview is what the first screen shows.
type overview struct {
	At            time.Time        `json:"at"`
	StepSeconds   float64          `json:"step_seconds"` // of all; of the others, times steps_shown
	StepsShown    int              `json:"steps_shown"`
	Daemon        daemon           `json:"daemon"`
	Configuration inForce          `json:"configuration"`
	All           account.Series   `json:"all"`
	Latency       latencies        `json:"latency"`
	Denied        []denial         `json:"denied"` // limits that deny, or did in the last 15 minutes; the worst first
	DeniedLeftOut int              `json:"denied_left_out"`
	Series        []account.Series `json:"series"` // namespaces and limits
	SeriesLeftOut int              `json:"series_left_out"`
	Asked         []account.Key    `json:"asked"` // who asks most
}

// A denial is a limit that denies.
type denial struct {
	account.Series
	Rule        string        `json:"rule,omitempty"` // its rate, strategy and burst
	Shadow      bool          `json:"shadow"`         // it denies nothing, but would
	Identifiers []account.Key `json:"identifiers"`
	// MoreIdentifiers is how many others are known to be denied, of up to 64 in a namespace.
	MoreIdentifiers int `json:"more_identifiers"`
}

// maxDomains is how many domains the page knows by name.
const maxDomains = 100

// inForce says which configuration is in force.
type inForce struct {
	Version    string     `json:"version"`
	Since      *time.Time `json:"since,omitempty"` // nil: since the start
	Refused    string     `json:"refused,omitempty"`
	RefusedAt  *time.Time `json:"refused_at,omitempty"`
	Namespaces int        `json:"namespaces"`
	Policies   int        `json:"policies"`
	Domains    int        `json:"domains"`
	// DomainNames are the first of them.
	DomainNames []string `json:"domain_names"`
}

// A monitor knows what the first screen shows.
type monitor struct {
	*Options
	history *account.History
	latency latency
	started time.Time
}

func newMonitor(o *Options, now time.Time) *monitor {
	return &monitor{
		Options: o, started: now, latency: latency{of: o.Latency, last: o.Latency.Counts(), before: o.Latency.Counts()},
		history: account.NewHistory(o.Book, account.Outcomes{
			Denial:  func(outcome int) bool { return decide.Outcome(outcome).Denies() },
			Failure: func(outcome int) bool { return decide.Outcome(outcome).StoreFailed() },
		}, now),
	}
}

// step ends a step of what is remembered.
func (m *monitor) step(now time.Time) {
	m.history.Step(now)
	m.latency.step()
}

// overview answers GET /console/overview.
func (m *monitor) overview(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	config := m.Configuration()
	series := m.history.Series(now)
	o := &overview{
		At: now, StepSeconds: account.StepTime.Seconds(), StepsShown: stepsShown,
		Daemon: daemonOf(m.Options, m.started), Configuration: inForceOf(&config), All: series[0], Latency: m.latency.show(),
		Series: []account.Series{}, Asked: []account.Key{},
	}
	series = series[1:]
	for i := range series {
		series[i].AskedSteps, series[i].DeniedSteps = joined(series[i].AskedSteps), joined(series[i].DeniedSteps)
	}
	hot := m.Book.HotKeys(math.MaxInt)
	o.Denied, o.DeniedLeftOut = m.denials(series, hot, &config)
	slices.SortStableFunc(series, func(a, b account.Series) int { return cmp.Compare(b.Asked, a.Asked) })
	o.SeriesLeftOut = max(0, len(series)-maxRows)
	o.Series = append(o.Series, series[:len(series)-o.SeriesLeftOut]...)
	for _, ns := range hot {
		for _, k := range ns.Asked {
			if k.Error <= k.PerSecond/2 { // otherwise the rate is mostly error
				o.Asked = append(o.Asked, k)
			}
		}
	}
	slices.SortFunc(o.Asked, func(a, b account.Key) int { return cmp.Compare(b.PerSecond, a.PerSecond) })
	o.Asked = o.Asked[:min(len(o.Asked), maxKeys)]
	web.WriteJSON(w, o)
}

// denials returns the limits that deny, the worst first, each with whom it denies.
func (m *monitor) denials(series []account.Series, hot []account.HotKeys, config *Configuration) (all []denial, leftOut int) {
	all = []denial{}
	for _, s := range series {
		// What Envoy asks counts as limits that requests bring along, too: also if these are in
		// shadow mode, and so deny nothing.
		ofDomain := s.Kind == account.OfInline && slices.Contains(config.Domains, s.Namespace)
		if s.DeniedLast == nil || s.Kind == account.OfNamespace || ofDomain {
			continue
		}
		d := denial{Series: s, Identifiers: []account.Key{}}
		d.Rule, d.Shadow = ruleOf(config.Policies, s.SeriesName)
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b denial) int {
		return cmp.Or(boolean(b.Denying)-boolean(a.Denying), boolean(a.Shadow)-boolean(b.Shadow), cmp.Compare(b.Denied, a.Denied), b.DeniedLast.Compare(*a.DeniedLast))
	})
	leftOut = max(0, len(all)-maxRows)
	all = all[:len(all)-leftOut]
	for _, ns := range hot {
		for _, k := range ns.Denied {
			ofEnvoy, rule := "", ""
			if slices.Contains(config.Domains, ns.Namespace) && k.Policy == "" {
				ofEnvoy, rule = m.limitOfEnvoy(ns.Namespace, k.Identifier)
			}
			i := slices.IndexFunc(all, func(d denial) bool {
				if d.Kind == account.OfEnvoy {
					return d.Limit == ofEnvoy
				}
				return d.denies(&k, ns.Namespace)
			})
			if i >= 0 && all[i].Rule == "" {
				all[i].Rule = rule
			}
			switch {
			case i < 0:
			case len(all[i].Identifiers) < maxIdentifiers:
				all[i].Identifiers = append(all[i].Identifiers, k)
			default:
				all[i].MoreIdentifiers++
			}
		}
	}
	return all, leftOut
}

// limitOfEnvoy returns the name of the limit of Envoy that an identifier is held to, and what that
// holds it to. It is of no limit if it was cut short, or the configuration has changed.
func (m *monitor) limitOfEnvoy(domain, identifier string) (name, rule string) {
	entries := strings.Split(identifier, ",")
	for i, e := range entries {
		if plain, err := url.PathUnescape(e); err == nil {
			entries[i] = plain
		}
	}
	request, match, err := m.Counter(domain, entries)
	if err != nil {
		return "", ""
	}
	var rules []string
	for i := range request.Limits {
		rules = append(rules, describe(&request.Limits[i]))
	}
	return match.Metric, strings.Join(rules, " and ")
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// denies reports whether k, of the account of a namespace, was denied by d.
func (d *denial) denies(k *account.Key, namespace string) bool {
	if d.Namespace != namespace {
		return false
	}
	switch d.Kind {
	case account.OfFailure:
		return k.Limit == ""
	case account.OfInline:
		return k.Policy == "" && k.Limit != ""
	default: // a limit without a name is counted without one
		return d.Policy == k.Policy && (d.Limit == k.Limit || d.Limit == "" && k.Limit != "")
	}
}

// ruleOf says what a limit of a policy holds those to who match no override, and whether it
// is in shadow mode. Without a limit of that name it says nothing.
func ruleOf(policies *policy.Config, name account.SeriesName) (rule string, shadow bool) {
	if name.Kind != account.OfLimit {
		return "", false
	}
	p := policies.Namespace(name.Namespace).Policy(name.Policy)
	if p == nil {
		return "", false
	}
	for _, l := range p.Base() {
		if l.Name == name.Limit {
			return describe(&l), l.Shadow
		}
	}
	return "", false
}

// joined returns steps with so many as are shown as one, each the mean of those.
func joined(steps []float32) []float32 {
	if steps == nil {
		return nil
	}
	short := make([]float32, 0, len(steps)/stepsShown+1)
	for end := len(steps); end > 0; end -= stepsShown { // from the end, so that it is whole
		part := steps[max(0, end-stepsShown):end]
		sum := float32(0)
		for _, v := range part {
			sum += v
		}
		short = append(short, sum/float32(len(part)))
	}
	slices.Reverse(short)
	return short
}

// inForceOf says which configuration is in force.
func inForceOf(c *Configuration) inForce {
	f := inForce{Domains: len(c.Domains), DomainNames: c.Domains[:min(len(c.Domains), maxDomains)], Namespaces: len(c.Policies.Namespaces())}
	if f.DomainNames == nil {
		f.DomainNames = []string{}
	}
	for _, ns := range c.Policies.Namespaces() {
		f.Policies += len(ns.Policies())
	}
	if s := c.Reload; s != nil {
		f.Version, f.Since = s.Version, &s.Since
		if s.Refused != nil {
			f.Refused, f.RefusedAt = s.Refused.Error(), &s.RefusedAt
		}
	}
	return f
}
