package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// many has limits of all kinds, and more identifiers than its store has room for.
const many = `memory_max_keys: %d
memory_shards: 16
namespaces:
  web:
    exempt: ["10.0.0.9"]
    policies:
      default:
        limits: [{name: second, rate: 5/s, strategy: token_bucket, burst: 10}, {name: minute, rate: %d/min}]
        overrides: [{identifiers: ["10.1.*"], limits: [{name: minute, rate: 20/min}]}]
      log: {limits: [{rate: 3/min, strategy: sliding_window_log}]}
      shadow: {shadow: true, limits: [{rate: 1/s, strategy: gcra}]}
`

// logOfMany is a log of many identifiers, some of which ask much. Some of its records ask for a
// policy that there is not, or are no records.
func logOfMany(records int) string {
	random := rand.New(rand.NewPCG(5, 6))
	var log strings.Builder
	log.WriteString("time,ip,policy,cost\n")
	at := start
	for i := range records {
		at = at.Add(time.Duration(random.IntN(3)) * 7 * time.Millisecond)
		n := int(4000 * random.Float64() * random.Float64())
		policy := []string{"default", "default", "log", "shadow"}[random.IntN(4)]
		if random.IntN(500) == 0 {
			policy = fmt.Sprintf("none%d", random.IntN(3))
		}
		fmt.Fprintf(&log, "%d,10.%d.%d.%d,%s,%d\n", at.UnixMicro(), n%3, n/250, n%250, policy, random.IntN(3))
		if i%1000 == 999 {
			log.WriteString("nothing\n")
		}
	}
	return log.String()
}

// TestLanes finds the same with any number of lanes, byte for byte: also where the store is full
// and has to evict, and the timeline becomes longer.
func TestLanes(t *testing.T) {
	log := write(t, "log.csv", logOfMany(25_000))
	for _, keys := range []int{100_000, 1000} {
		now, before := write(t, "new.yaml", fmt.Sprintf(many, keys, 30)), write(t, "old.yaml", fmt.Sprintf(many, keys, 60))
		var want []byte
		for _, lanes := range []int{1, 3, 8} {
			r := prepared(t, "--config", now, "--current", before, "--policy", "{policy}", "--namespace", "web", "--cost", "{cost}", "--suggest", "p=1%", "--max-identifiers", "5000", log)
			r.lanes = lanes
			if err := r.do(t.Context()); err != nil {
				t.Fatal(err)
			}
			found := newReport(r)
			if n := len(r.replicas[0].lanes); n != map[int]int{1: 1, 3: 2, 8: 8}[lanes] {
				t.Errorf("%d lanes, and %d of them decide", lanes, n)
			}
			var html bytes.Buffer
			if err := found.printHTML(&html); err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(found)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, html.Bytes()...)
			if want == nil {
				want = got
				evicted := evictions(t, r.replicas[0].store.Collector())
				if found.Outcomes["denied"] < 300 || found.Outcomes["shadow"] < 1000 || found.Outcomes["exempt"] == 0 || found.Unread < 60 || found.Others == 0 || (evicted > 0) != (keys == 1000) {
					t.Fatalf("%+v, %v evictions", found, evicted)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("room for %d counters: %d lanes find another report:\n%.3000s\nwant\n%.3000s", keys, lanes, got, want)
			}
		}
	}
}

// evictions returns how many counters a store has evicted.
func evictions(t *testing.T, c prometheus.Collector) (n float64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "ratelimitd_memory_evictions_total" {
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}
