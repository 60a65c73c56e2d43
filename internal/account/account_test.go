package account

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// shown returns what Prometheus is shown of b, by series.
func shown(t *testing.T, b *Book) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b.Collector("memory"))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := []string{strings.TrimPrefix(family.GetName(), "ratelimitd_")}
			for _, l := range m.GetLabel() {
				name = append(name, l.GetName()+"="+l.GetValue())
			}
			series[strings.Join(name, " ")] = m.GetCounter().GetValue()
		}
	}
	return series
}

// TestCardinality has callers make up namespaces, and a configuration with more
// policies than anybody reads.
func TestCardinality(t *testing.T) {
	b := New([]string{"allowed", "denied"}, time.Now)
	b.Configured([]string{"checkout"})
	const names, denied = 2 * maxNamespaceLimits, 1
	for i := range names {
		for _, namespace := range []string{fmt.Sprint("made up ", i), "checkout"} {
			var tally Tally
			limits := []strategy.Limit{{Name: fmt.Sprint("limit ", i), Strategy: strategy.FixedWindow}}
			for _, policy := range []string{"", fmt.Sprint("policy ", i)} {
				tally.Add(b, &Entry{Namespace: namespace, Policy: policy, Outcome: denied, Denied: true, Limits: limits, Statuses: make([]strategy.Status, 1)})
			}
			tally.Flush(b)
		}
		b.Hit(fmt.Sprint("limit ", i), Hits{N: 2, Over: 2, Shadow: false})
		b.Hit(fmt.Sprint("limit ", i), Hits{N: 3, Over: 0, Shadow: i%2 == 0})
	}
	for range 3 {
		b.Hit(Others, Hits{N: 1, Over: 1, Shadow: true})
	}

	series := shown(t, b)
	count := func(prefix string) (n int) {
		for name := range series {
			if strings.HasPrefix(name, prefix+" ") {
				n++
			}
		}
		return n
	}
	const all = maxNamespaces + 2 // with checkout and the others
	if n := count("decisions_total"); n != all*2 {
		t.Errorf("%d series of decisions, want %d", n, all*2)
	}
	// Each namespace that callers made up had one policy before the rest came.
	if n, want := count("limit_decisions_total"), 2*(all+maxNamespaces+maxNamespaceLimits); n != want {
		t.Errorf("%d series of limits, want %d", n, want)
	}
	if n, want := count("envoy_limit_hits_total"), 3*(maxEnvoyLimits+1); n != want {
		t.Errorf("%d series of Envoy's limits, want %d", n, want)
	}
	for name, want := range map[string]float64{
		"decisions_total namespace=checkout outcome=denied":                                     2 * names,
		"decisions_total namespace=other outcome=denied":                                        2 * (names - maxNamespaces),
		"limit_checks_total outcome=denied strategy=fixed_window":                               4 * names,
		"limit_decisions_total limit=limit 7 namespace=checkout outcome=denied policy=policy 7": 1,
		"limit_decisions_total limit= namespace=checkout outcome=denied policy=":                2*names - maxNamespaceLimits,
		"limit_decisions_total limit= namespace=other outcome=denied policy=":                   2 * (names - maxNamespaces),
		"envoy_limit_hits_total limit=limit 7 outcome=over_limit":                               2,
		"envoy_limit_hits_total limit=limit 7 outcome=within_limit":                             3,
		"envoy_limit_hits_total limit=other outcome=shadow":                                     3,
	} {
		if got, ok := series[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// TestNamesThatAreNoLabels has names that would break a scrape, or be another's.
func TestNamesThatAreNoLabels(t *testing.T) {
	b := New([]string{"allowed"}, time.Now)
	names := []string{Others, "\xff", strings.Repeat("x", maxNameBytes+1)}
	b.Configured(names)
	for _, name := range names {
		b.note(name, "alice", false)
		b.Hit(name, Hits{N: 1, Over: 0, Shadow: false})
	}
	series := shown(t, b)
	for _, name := range []string{"decisions_total namespace=other outcome=allowed", "envoy_limit_hits_total limit=other outcome=within_limit"} {
		if series[name] != float64(len(names)) {
			t.Errorf("%s is %v, want %d", name, series[name], len(names))
		}
	}
}

// TestLint holds the names and the help to Prometheus' own rules.
func TestLint(t *testing.T) {
	problems, err := testutil.CollectAndLint(New([]string{"allowed"}, time.Now).Collector("memory"))
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// BenchmarkTally counts one decision, as a call of one request does.
func BenchmarkTally(b *testing.B) {
	book := New([]string{"allowed", "denied"}, time.Now)
	e := &Entry{Namespace: "checkout", Policy: "default", Outcome: 1, Denied: true, Limits: make([]strategy.Limit, 1), Statuses: make([]strategy.Status, 1)}
	e.Limits[0].Name, e.Limits[0].Strategy = "burst", strategy.FixedWindow
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		var t Tally
		for p.Next() {
			t.Add(book, e)
			t.Flush(book)
		}
	})
}

// TestConfiguredFirst has callers and clients make up names first. What is configured
// later has counters of its own all the same, up to a bound.
func TestConfiguredFirst(t *testing.T) {
	b := New([]string{"allowed"}, time.Now)
	for i := range 2 * maxEnvoyLimits {
		b.note(fmt.Sprint("junk ", i), "alice", false)
		b.Hit(fmt.Sprint("junk ", i), Hits{N: 1, Over: 0, Shadow: false})
	}
	b.Configured([]string{"checkout"})
	b.ConfiguredLimits([]string{"edge.user", strings.Repeat("x", maxNameBytes+1)})
	b.note("checkout", "alice", false)
	b.Hit("edge.user", Hits{N: 1, Over: 0, Shadow: false})
	series := shown(t, b)
	for _, name := range []string{"decisions_total namespace=checkout outcome=allowed", "envoy_limit_hits_total limit=edge.user outcome=within_limit"} {
		if series[name] != 1 {
			t.Errorf("%s is %v, want 1", name, series[name])
		}
	}

	names := make([]string, 20*maxConfigured)
	for i := range names {
		names[i] = fmt.Sprint("configured ", i)
	}
	start := time.Now()
	b.Configured(names)
	b.ConfiguredLimits(names)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("%d names take %v", len(names), took)
	}
	if n, m := len(b.namespaces.all()), len(b.envoy.all()); n != maxConfigured || m != maxConfigured {
		t.Errorf("%d namespaces and %d limits have counters of their own, want %d", n, m, maxConfigured)
	}
}
