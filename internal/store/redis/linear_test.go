package redis

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestLinearizable has two daemons' stores share a server.
func TestLinearizable(t *testing.T) {
	t.Parallel() // with tests that mostly wait
	server := redistest.Start(t)
	storetest.Linear{Stores: []store.Store{open(t, server), open(t, server)}, Histories: 800}.Check(t)
}

// TestASplitScriptIsFound plants a decision of two scripts.
func TestASplitScriptIsFound(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	stores := []store.Store{storetest.Split{Store: open(t, server)}, storetest.Split{Store: open(t, server)}}
	storetest.Linear{Stores: stores, Histories: 500, Strategies: storetest.SplitStrategies}.FindsRace(t)
}

// TestLinearizableOverARestart kills a server that keeps nothing on disk, and starts it
// again. Everything before is forgotten, and that is all.
func TestLinearizableOverARestart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	stores := []store.Store{open(t, server), open(t, server)}
	for range 3 {
		storetest.Linear{Stores: stores}.CheckCrashes(t, false, func() { server.Kill(); server.Restart(t) })
	}
}

// TestLinearizableOverARestartWithAOF kills a server that writes each command to a file before
// it answers. Nothing is forgotten, as long as the machine goes on.
func TestLinearizableOverARestartWithAOF(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "everysec")
	stores := []store.Store{open(t, server), open(t, server)}
	for range 3 {
		storetest.Linear{Stores: stores}.CheckCrashes(t, true, func() { server.Kill(); server.Restart(t) })
	}
}

// TestALossOverARestartIsFound has a server forget that should not.
func TestALossOverARestartIsFound(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	stores := []store.Store{open(t, server), open(t, server)}
	storetest.Linear{Stores: stores}.FindsLoss(t, func() { server.Kill(); server.Restart(t) })
}

// TestEvictedKeys fills a server that evicts keys. Each counter is as it was, or fresh.
func TestEvictedKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-random")
	s := open(t, server)
	const identifiers, used = 500, 3
	r := store.Request{Namespace: "test", Limits: limits(t, strategy.Spec{Rate: "10/366d"}), Cost: used}
	for i := range identifiers {
		r.Identifier = fmt.Sprint(i)
		if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
			t.Fatalf("%+v", res)
		}
	}
	client := server.Client(t)
	for i := range 3000 {
		if err := client.Set(t.Context(), fmt.Sprint("other ", i), strings.Repeat("x", 1000), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	fresh := 0
	for i := range identifiers {
		r.Identifier, r.Cost = fmt.Sprint(i), 0
		switch res := decide(t.Context(), s, r); {
		case res.Err != nil || res.Statuses[0].Remaining != 10 && res.Statuses[0].Remaining != 10-used:
			t.Errorf("identifier %d: %+v", i, res)
		case res.Statuses[0].Remaining == 10:
			fresh++
		}
	}
	if fresh == 0 || fresh == identifiers {
		t.Errorf("%d of %d counters are evicted", fresh, identifiers)
	}
}

// testClusterLinearizable has two daemons' stores share a cluster.
func testClusterLinearizable(t *testing.T, c *redistest.Cluster) {
	stores := []store.Store{openWith(t, Options{URLs: c.URLs()}), openWith(t, Options{URLs: c.URLs()})}
	storetest.Linear{Stores: stores, Histories: 400}.Check(t)
}
