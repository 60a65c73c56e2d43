package redis

import (
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
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
		storetest.Linear{Stores: stores}.CheckCrashes(t, func() { server.Kill(); server.Restart(t) })
	}
}

// testClusterLinearizable has two daemons' stores share a cluster.
func testClusterLinearizable(t *testing.T, c *redistest.Cluster) {
	stores := []store.Store{openWith(t, Options{URLs: c.URLs()}), openWith(t, Options{URLs: c.URLs()})}
	storetest.Linear{Stores: stores, Histories: 400}.Check(t)
}
