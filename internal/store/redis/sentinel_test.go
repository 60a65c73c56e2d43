package redis

import (
	"errors"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestSentinel has one group go through all that follows, in order.
func TestSentinel(t *testing.T) {
	t.Parallel() // it mostly waits
	g := redistest.StartSentinel(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *redistest.SentinelGroup)
	}{
		{"Conformance", testSentinelConformance},
		{"KilledMaster", testSentinelKilledMaster},
		{"RollingRestart", testSentinelRollingRestart},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, g) }) {
			break
		}
	}
}

// throughSentinels returns the options for a group.
func throughSentinels(g *redistest.SentinelGroup) Options {
	return Options{URLs: g.URLs(), MasterName: g.MasterName, Password: g.Password, SentinelPassword: g.SentinelPassword}
}

func testSentinelConformance(t *testing.T, g *redistest.SentinelGroup) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		client := g.Master(t).Client(t)
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		s := openWith(t, throughSentinels(g))
		s.pipes.script = newScript(testClock)
		return storetest.Subject{Store: s, Set: func(now strategy.Instant) {
			if err := client.Set(t.Context(), "test:now", int64(now), 0).Err(); err != nil {
				t.Fatal(err)
			}
		}}
	})
}

// testSentinelKilledMaster kills the master under load.
func testSentinelKilledMaster(t *testing.T, g *redistest.SentinelGroup) {
	o := throughSentinels(g)
	o.Timeout = 100 * time.Millisecond
	s := openWith(t, o)
	load := startLoad(t, s, 4)
	load.await(t, "decisions are made", func() error { return load.allEvery(200) })
	load.outlives(t, s, g.Master(t))
	g.Await(t)
}

// testSentinelRollingRestart restarts the replicas, then the master after one
// of them has taken over, and the sentinels, under load. Sentinels let the old
// master go on for a while beside the new one: unless it is paused, what is
// consumed there meanwhile is lost.
func testSentinelRollingRestart(t *testing.T, g *redistest.SentinelGroup) {
	o := throughSentinels(g)
	o.Timeout = 100 * time.Millisecond
	s := openWith(t, o)
	load := startLoad(t, s, 4)
	load.await(t, "decisions are made", func() error { return load.allEvery(20) })
	restart := func(server *redistest.Server) {
		t.Helper()
		server.Stop(t)
		server.Restart(t)
		g.Await(t)
	}
	master := g.Master(t)
	for _, server := range g.Servers {
		if server != master {
			restart(server)
		}
	}
	if err := master.Client(t).Do(t.Context(), "CLIENT", "PAUSE", 60_000, "WRITE").Err(); err != nil {
		t.Fatal(err)
	}
	sentinel := g.Sentinels[0].Client(t)
	redistest.Eventually(t, "a replica takes over", func() error {
		if g.Master(t) != master {
			return nil
		}
		// Once may not be enough: it gives up if it has not heard of a replica lately.
		return errors.Join(errors.New("not yet"), sentinel.Do(t.Context(), "SENTINEL", "FAILOVER", g.MasterName).Err())
	})
	restart(master)
	for _, sentinel := range g.Sentinels {
		restart(sentinel)
	}
	load.await(t, "decisions go on", func() error { return load.fine() })
	load.stop()
	lost := load.lost(t, s)
	t.Logf("%d decisions, of which %d failed; lost %d", load.decisions.Load(), load.failed.Load(), lost)
	if lost != 0 {
		t.Errorf("a planned restart loses %d units", lost)
	}
}
