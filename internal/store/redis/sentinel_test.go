package redis

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestSentinel runs all tests below on one group, in order.
func TestSentinel(t *testing.T) {
	t.Parallel() // it mostly waits
	g := redistest.StartSentinel(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *redistest.SentinelGroup)
	}{
		{"Conformance", testSentinelConformance},
		{"Passwords", testSentinelPasswords},
		{"KilledMaster", testSentinelKilledMaster},
		{"RollingRestart", testSentinelRollingRestart},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, g) }) {
			break
		}
	}
}

// throughSentinels returns the options to connect to a group.
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

// testSentinelPasswords has the sentinels' password in their URLs, and then not at all.
func testSentinelPasswords(t *testing.T, g *redistest.SentinelGroup) {
	o := throughSentinels(g)
	o.SentinelPassword = ""
	if err := openWith(t, o).Health(t.Context()); err == nil || !strings.Contains(err.Error(), "NOAUTH") || !strings.Contains(err.Error(), "--redis-sentinel-password") {
		t.Errorf("without the sentinels' password: %v", err)
	}
	for i, u := range o.URLs {
		o.URLs[i] = strings.Replace(u, "redis://", "redis://:"+g.SentinelPassword+"@", 1)
	}
	if err := openWith(t, o).Health(t.Context()); err != nil {
		t.Error(err)
	}
	o.SentinelPassword = g.SentinelPassword
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "the URLs of the sentinels have a password too") {
		t.Errorf("with two: %v", err)
	}
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

// testSentinelRollingRestart restarts under load the replicas, then the master after a replica
// has taken over, and then the sentinels. For a while, sentinels let the old master go on
// beside the new one. Unless it is paused, what is consumed there meanwhile is lost.
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
		// Once may not be enough: a sentinel gives up if it has not heard of a replica lately.
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
