// Package top reads the admin port of a running daemon and shows what the daemon
// does at present: how much it decides, how fast, and for whom.
package top

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/connect"
)

// A Sample is what a daemon has counted up to an instant.
type Sample struct {
	at      time.Time
	metrics map[string]*dto.MetricFamily
	hot     []account.HotKeys
}

// maxReplyBytes is more than the longest reply of a daemon.
const maxReplyBytes = 64 << 20

// A Port is the admin port of a daemon.
type Port struct {
	Client *http.Client
	Link   connect.Link
	Addr   string // host:port
}

// Take takes a sample of the daemon, with up to n hot keys of each kind per
// namespace.
func (p *Port) Take(ctx context.Context, n int) (*Sample, error) {
	s := &Sample{at: time.Now()}
	err := p.get(ctx, "/metrics", func(body io.Reader) (err error) {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		s.metrics, err = parser.TextToMetricFamilies(body)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, p.get(ctx, fmt.Sprintf("/hot-keys?n=%d", n), func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&s.hot)
	})
}

// maxReason is how much is shown of why the daemon refuses.
const maxReason = 300

func (p *Port) get(ctx context.Context, path string, read func(io.Reader) error) error {
	url := p.Link.Scheme() + "://" + p.Addr + path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	p.Link.Authorize(request)
	reply, err := p.Client.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	switch reply.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMisdirectedRequest:
		reason, _ := io.ReadAll(io.LimitReader(reply.Body, maxReason))
		return fmt.Errorf("%s: %s: %s", url, reply.Status, strings.TrimSpace(string(reason)))
	default:
		return fmt.Errorf("%s: %s; is that the admin port of ratelimitd?", url, reply.Status)
	}
	if err := read(io.LimitReader(reply.Body, maxReplyBytes)); err != nil {
		return fmt.Errorf("%s: %w; is that the admin port of ratelimitd?", url, err)
	}
	return nil
}

// A View is what a daemon did between two samples. Rates are per second, and
// durations in seconds.
type View struct {
	At      time.Time `json:"at"` // of the second sample
	Seconds float64   `json:"seconds"`

	Calls     float64 `json:"calls"` // each message of a stream is one
	Decisions float64 `json:"decisions"`
	Denied    float64 `json:"denied"`
	Failed    float64 `json:"failed"`  // answered by the failure policy
	Refused   float64 `json:"refused"` // as invalid
	P50       float64 `json:"p50"`     // of the calls; 0 if there were no calls
	P99       float64 `json:"p99"`

	StoreErrors   float64 `json:"store_errors"`
	ServersGone   float64 `json:"servers_gone"` // servers whose circuit breaker is open
	DenyCacheHits float64 `json:"deny_cache_hits"`

	Keys          float64 `json:"keys"`           // counters in memory
	Evictions     float64 `json:"evictions"`      // of live ones
	LockContended float64 `json:"lock_contended"` // share of lock acquisitions that had to wait
	LockWait      float64 `json:"lock_wait"`      // seconds waited per second
	HottestShare  float64 `json:"hottest_stripe"` // lock acquisitions of the busiest stripe, as a multiple of the mean

	Namespaces []Namespace   `json:"namespaces"` // the busiest first
	Limits     []Limit       `json:"limits"`     // that deny, the one that denies most first
	Asked      []account.Key `json:"asked"`      // who asks most, over all namespaces
	DeniedMost []account.Key `json:"denied_most"`
}

// A Namespace is how much was decided for one namespace, per second.
type Namespace struct {
	Name      string  `json:"namespace"`
	Decisions float64 `json:"decisions"`
	Denied    float64 `json:"denied"`
}

// A Limit is how often a limit was asked, and denied, per second. Without a policy it is of
// Envoy's configuration, or, without a name too, all that requests of its namespace bring along.
type Limit struct {
	Namespace string  `json:"namespace"`
	Policy    string  `json:"policy,omitempty"`
	Limit     string  `json:"limit"`
	Asked     float64 `json:"asked"`
	Denied    float64 `json:"denied"`
}

// Between returns what happened between two samples, with up to n lines of each
// kind. If the daemon was restarted in between, it counts from 0.
func Between(before, after *Sample, n int) *View {
	seconds := max(after.at.Sub(before.at).Seconds(), 1e-3)
	d := difference{before, after, seconds}
	v := &View{
		At: after.at, Seconds: seconds,
		Decisions:     d.rate("ratelimitd_decisions_total", nil),
		Denied:        d.rate("ratelimitd_decisions_total", denied),
		Failed:        d.rate("ratelimitd_decisions_total", failed),
		Refused:       d.rate("ratelimitd_refused_requests_total", nil),
		StoreErrors:   d.rate("ratelimitd_store_errors_total", nil),
		ServersGone:   after.sum("ratelimitd_store_breaker_open", nil),
		DenyCacheHits: d.rate("ratelimitd_deny_cache_hits_total", nil),
		Keys:          after.sum("ratelimitd_memory_keys", nil),
		Evictions:     d.rate("ratelimitd_memory_evictions_total", nil),
	}
	v.Calls, v.P50, v.P99 = d.latency("ratelimitd_request_duration_seconds")
	if acquired := d.rate("ratelimitd_memory_lock_acquisitions_total", nil); acquired > 0 {
		v.LockContended = d.rate("ratelimitd_memory_lock_contentions_total", nil) / acquired
	}
	if total := after.sum("ratelimitd_memory_lock_acquisitions_total", nil); total > 0 {
		v.HottestShare = after.sum("ratelimitd_memory_hottest_lock_acquisitions_total", nil) * after.sum("ratelimitd_memory_shards", nil) / total
	}
	v.LockWait = d.rate("ratelimitd_memory_lock_wait_seconds", nil)
	v.Namespaces = d.namespaces(n)
	v.Limits = d.limits(n)
	for _, ns := range after.hot {
		v.Asked, v.DeniedMost = append(v.Asked, ns.Asked...), append(v.DeniedMost, ns.Denied...)
	}
	v.Asked, v.DeniedMost = hottest(v.Asked, n), hottest(v.DeniedMost, n)
	return v
}

// hottest returns the n hottest keys. It leaves out keys whose rate is mostly error:
// where all keys are asked about equally, none of them is hot.
func hottest(keys []account.Key, n int) []account.Key {
	keys = slices.DeleteFunc(keys, func(k account.Key) bool { return k.Error > k.PerSecond/2 })
	slices.SortFunc(keys, func(a, b account.Key) int { return cmp.Compare(b.PerSecond, a.PerSecond) })
	return keys[:min(n, len(keys))]
}

// label returns the value of a metric's label.
func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func denied(m *dto.Metric) bool {
	return slices.Contains([]string{"denied", "failed_closed", "local_denied"}, label(m, "outcome"))
}

func failed(m *dto.Metric) bool {
	outcome := label(m, "outcome")
	return strings.HasPrefix(outcome, "failed_") || strings.HasPrefix(outcome, "local_") || outcome == "error"
}

// sum returns the sum of the metrics called name for which of returns true, or of
// all if of is nil. For a histogram, it is the sum of the observed values.
func (s *Sample) sum(name string, of func(*dto.Metric) bool) (sum float64) {
	for _, m := range s.metrics[name].GetMetric() {
		if of == nil || of(m) {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return sum
}

// A difference compares two samples.
type difference struct {
	before, after *Sample
	seconds       float64
}

func (d difference) rate(name string, of func(*dto.Metric) bool) float64 {
	before, after := d.before.sum(name, of), d.after.sum(name, of)
	if after < before { // the daemon was restarted
		before = 0
	}
	return (after - before) / d.seconds
}

func (d difference) namespaces(n int) []Namespace {
	var all []Namespace
	seen := map[string]bool{}
	for _, m := range d.after.metrics["ratelimitd_decisions_total"].GetMetric() {
		name := label(m, "namespace")
		if seen[name] {
			continue
		}
		seen[name] = true
		here := func(m *dto.Metric) bool { return label(m, "namespace") == name }
		ns := Namespace{
			Name:      name,
			Decisions: d.rate("ratelimitd_decisions_total", here),
			Denied:    d.rate("ratelimitd_decisions_total", func(m *dto.Metric) bool { return here(m) && denied(m) }),
		}
		if ns.Decisions > 0 {
			all = append(all, ns)
		}
	}
	slices.SortFunc(all, func(a, b Namespace) int {
		return cmp.Or(cmp.Compare(b.Decisions, a.Decisions), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(n, len(all))]
}

// limits returns those that deny.
func (d difference) limits(n int) []Limit {
	byEnvoy := map[string]bool{} // namespaces whose limits are of Envoy's configuration
	all := d.limitsOf("ratelimitd_envoy_limit_hits_total", func(m *dto.Metric) Limit {
		l := Limit{Limit: label(m, "limit")}
		l.Namespace = d.domainOf(l.Limit)
		byEnvoy[l.Namespace] = true
		return l
	})
	all = append(all, d.limitsOf("ratelimitd_limit_decisions_total", func(m *dto.Metric) Limit {
		return Limit{Namespace: label(m, "namespace"), Policy: label(m, "policy"), Limit: label(m, "limit")}
	})...)
	all = slices.DeleteFunc(all, func(l Limit) bool {
		return l.Denied == 0 || l.Policy == "" && l.Limit == "" && byEnvoy[l.Namespace] // which were counted above
	})
	slices.SortFunc(all, func(a, b Limit) int {
		return cmp.Or(cmp.Compare(b.Denied, a.Denied), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Limit, b.Limit))
	})
	return all[:min(n, len(all))]
}

// limitsOf returns the limits of a metric, whose labels of makes a limit of.
func (d difference) limitsOf(name string, of func(*dto.Metric) Limit) []Limit {
	asked, over := map[Limit]float64{}, map[Limit]float64{}
	count := func(s *Sample, sign float64) {
		for _, m := range s.metrics[name].GetMetric() {
			l, n := of(m), sign*m.GetCounter().GetValue()/d.seconds
			asked[l] += n
			if outcome := label(m, "outcome"); outcome == "denied" || outcome == "over_limit" {
				over[l] += n
			}
		}
	}
	count(d.after, 1)
	count(d.before, -1)
	var all []Limit
	for l := range asked {
		if asked[l] < 0 || over[l] < 0 { // the daemon was restarted
			return difference{&Sample{}, d.after, d.seconds}.limitsOf(name, of)
		}
		all = append(all, Limit{l.Namespace, l.Policy, l.Limit, asked[l], over[l]})
	}
	return all
}

// domainOf returns the domain of a limit of Envoy's configuration, whose name begins with it.
func (d difference) domainOf(limit string) (domain string) {
	for _, m := range d.after.metrics["ratelimitd_decisions_total"].GetMetric() {
		if name := label(m, "namespace"); len(name) > len(domain) && strings.HasPrefix(limit, name+".") {
			domain = name
		}
	}
	return domain
}

// latency returns, over all labels of a histogram, how many values were observed
// per second, their median and their 99th percentile. Within a bucket it assumes
// that values are spread evenly.
func (d difference) latency(name string) (perSecond, p50, p99 float64) {
	counts := map[float64]float64{} // by upper bound; of all values up to it
	add := func(s *Sample, sign float64) {
		for _, m := range s.metrics[name].GetMetric() {
			for _, b := range m.GetHistogram().GetBucket() {
				counts[b.GetUpperBound()] += sign * float64(b.GetCumulativeCount())
			}
		}
	}
	add(d.after, 1)
	if total := d.before.metrics[name]; total != nil {
		add(d.before, -1)
	}
	bounds := make([]float64, 0, len(counts))
	for bound, count := range counts {
		if count < 0 { // the daemon was restarted
			return difference{&Sample{}, d.after, d.seconds}.latency(name)
		}
		if !math.IsInf(bound, 1) {
			bounds = append(bounds, bound)
		}
	}
	slices.Sort(bounds)
	total := counts[math.Inf(1)]
	percentile := func(share float64) float64 {
		low, below := 0.0, 0.0
		for _, bound := range bounds {
			if count := counts[bound]; count >= share*total && count > below {
				return low + (bound-low)*(share*total-below)/(count-below)
			}
			low, below = bound, counts[bound]
		}
		return low
	}
	if total == 0 {
		return 0, 0, 0
	}
	return total / d.seconds, percentile(0.5), percentile(0.99)
}
