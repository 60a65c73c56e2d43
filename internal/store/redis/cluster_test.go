package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/breaker"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestCluster runs all tests below on one cluster, in order.
func TestCluster(t *testing.T) {
	t.Parallel() // it mostly waits
	c := redistest.StartCluster(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *redistest.Cluster)
	}{
		{"Conformance", testClusterConformance},
		{"Linearizable", testClusterLinearizable},
		{"OneCommandPerDecision", testClusterOneCommandPerDecision},
		{"ACL", testClusterACL},
		{"UnknownEndpoint", testUnknownEndpoint},
		{"Migration", testMigration},
		{"PausedMaster", testPausedMaster},
		{"KilledMaster", testKilledMaster},
		{"BreakerOutlivesMaster", testBreakerOutlivesMaster},
		{"RollingRestart", testClusterRollingRestart},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, c) }) {
			break // who knows what state the cluster is in
		}
	}
}

// testClusterConformance has three clocks, one on each master. A script may read all keys of its
// own node, so it finds one of the three.
func testClusterConformance(t *testing.T, c *redistest.Cluster) {
	var clocks []string
	for _, name := range namesOnEachMaster(t, c, "clock") {
		clocks = append(clocks, fmt.Sprintf("test:now:{%s}", name))
	}
	clock := fmt.Sprintf(`local now, slack = nil, 3600000
for _, key in ipairs({'%s'}) do
  local set = redis.pcall('GET', key)
  if type(set) == 'string' then now = tonumber(set) end
end
`, strings.Join(clocks, "', '"))
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		client := c.Client(t)
		if err := client.ForEachMaster(t.Context(), func(ctx context.Context, master *goredis.Client) error {
			return master.FlushAll(ctx).Err()
		}); err != nil {
			t.Fatal(err)
		}
		s := openWith(t, Options{URLs: c.URLs()})
		s.pipes.script = newScript(clock)
		return storetest.Subject{Store: s, Set: func(now strategy.Instant) {
			pipe := client.Pipeline()
			for _, key := range clocks {
				pipe.Set(t.Context(), key, int64(now), 0)
			}
			if _, err := pipe.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
		}}
	})
}

// testClusterOneCommandPerDecision also shows that a single address is enough.
func testClusterOneCommandPerDecision(t *testing.T, c *redistest.Cluster) {
	s := openWith(t, Options{URLs: c.URLs()[4:5], Cluster: true})
	ls := limits(t, oneOfEach...)
	var requests []store.Request
	for i := range 60 {
		requests = append(requests, store.Request{Namespace: "test", Identifier: fmt.Sprint("one command ", i), Limits: ls, Cost: 1})
	}
	results := make([]store.Result, len(requests))
	s.Decide(t.Context(), requests, results) // loads the script
	for _, node := range c.Nodes {
		if err := node.Client(t).ConfigResetStat(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	s.Decide(t.Context(), requests, results)
	for i, res := range results {
		if res.Err != nil {
			t.Errorf("%d: %+v", i, res)
		}
	}
	for i := range requests {
		if err := s.Reset(t.Context(), &requests[i]); err != nil {
			t.Fatal(err)
		}
	}
	total := map[string]int{}
	for _, node := range c.Nodes[:3] {
		for command, n := range commandCalls(t, node.Client(t)) {
			total[command] += n
		}
	}
	if total["evalsha"] != 60 || total["eval"] != 0 || total["del"] != 60 {
		t.Errorf("60 decisions and as many resets cost these commands: %v", total)
	}
}

// testUnknownEndpoint has the nodes say that they do not know their hosts, as managed
// clusters behind one name do.
func testUnknownEndpoint(t *testing.T, c *redistest.Cluster) {
	prefer := func(kind string) {
		t.Helper()
		for _, node := range c.Nodes {
			if err := node.Client(t).ConfigSet(t.Context(), "cluster-preferred-endpoint-type", kind).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	prefer("unknown-endpoint")
	defer prefer("ip")
	s := openWith(t, Options{URLs: c.URLs()[:1], Cluster: true})
	for i := range 20 {
		r := store.Request{Namespace: "test", Identifier: fmt.Sprint("unknown ", i), Limits: limits(t, strategy.Spec{Rate: "1/h"}), Cost: 1}
		if first, second := decide(t.Context(), s, r), decide(t.Context(), s, r); !first.Allowed || second.Allowed || second.Err != nil {
			t.Errorf("%+v, %+v", first, second)
		}
	}
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// testMigration moves a slot from one node to another while its counters are in use. It moves
// one key after the other, as redis-cli does.
func testMigration(t *testing.T, c *redistest.Cluster) {
	s := openWith(t, Options{URLs: c.URLs()})
	r := store.Request{Namespace: "test", Identifier: "moves", Cost: 1, Limits: limits(t,
		strategy.Spec{Rate: "1000000/366d", Name: "a"}, strategy.Spec{Rate: "1000000/366d", Name: "b", Strategy: strategy.TokenBucket})}
	keys := []string{counterKey(r.Namespace, r.Identifier, &r.Limits[0]), counterKey(r.Namespace, r.Identifier, &r.Limits[1])}
	slot := c.Slot(t, keys[0])
	from, _ := c.MasterAndReplica(t, c.Nodes[0], keys[0])
	to := c.Nodes[0]
	if to == from {
		to = c.Nodes[1]
	}
	allowed := uint64(0)
	consume := func(r store.Request, times int) {
		t.Helper()
		for range times {
			if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
				t.Fatalf("%+v", res)
			}
			allowed++
		}
	}
	run := func(node *redistest.Server, args ...any) {
		t.Helper()
		if err := node.Client(t).Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	migrate := func(key string) {
		t.Helper()
		host, port, _ := net.SplitHostPort(to.Addr)
		run(from, "MIGRATE", host, port, key, 0, 5000)
	}

	consume(r, 10)
	run(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", c.ID(t, from))
	run(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", c.ID(t, to))
	consume(r, 10) // both keys are where they were

	// One key is here and one there. Nobody can decide until both are there.
	migrate(keys[0])
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
			t.Errorf("with the keys of a request on two nodes: %+v", res)
		}
	})
	redistest.Eventually(t, "it is told to try again", func() error { return errorSeen(t, from, "TRYAGAIN") })
	migrate(keys[1])
	waiting.Wait()
	allowed++

	consume(r, 10) // redirected by ASK
	fresh := r
	fresh.Limits = limits(t, strategy.Spec{Rate: "1000000/366d", Name: "c"})
	consume(fresh, 1) // a counter that there was not before
	allowed--
	if err := errorSeen(t, from, "ASK"); err != nil {
		t.Error(err)
	}
	for _, node := range []*redistest.Server{to, from, c.Nodes[0], c.Nodes[1], c.Nodes[2]} {
		run(node, "CLUSTER", "SETSLOT", slot, "NODE", c.ID(t, to))
	}
	consume(r, 10) // redirected by MOVED, at first
	if err := errorSeen(t, from, "MOVED"); err != nil {
		t.Error(err)
	}
	r.Cost = 0
	if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining != 1_000_000-allowed || res.Statuses[1].Remaining < 1_000_000-allowed {
		t.Errorf("after %d decisions: %+v", allowed, res)
	}
}

// errorSeen returns nil if a node has answered with that error.
func errorSeen(t *testing.T, node *redistest.Server, code string) error {
	t.Helper()
	info, err := node.Client(t).Info(t.Context(), "errorstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(info, "errorstat_"+code+":") {
		return fmt.Errorf("no %s in %s", code, info)
	}
	return nil
}

// testPausedMaster checks that a hanging node holds up only its own decisions. It hangs for a
// shorter time than the others need to replace it.
func testPausedMaster(t *testing.T, c *redistest.Cluster) {
	s := openWith(t, Options{URLs: c.URLs()})
	hasty := openWith(t, Options{URLs: c.URLs(), Timeout: 50 * time.Millisecond})
	redistest.Eventually(t, "all masters answer", func() error { return hasty.Health(t.Context()) })
	ls := limits(t, strategy.Spec{Rate: "1000000/366d"})
	var requests []store.Request // one for each master
	for _, name := range namesOnEachMaster(t, c, "paused") {
		requests = append(requests, store.Request{Namespace: "test", Identifier: strings.TrimPrefix(name, "test:"), Limits: ls, Cost: 1})
	}
	for _, r := range requests { // connects, and learns which node has what
		if res := decide(t.Context(), s, r); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	master, _ := c.MasterAndReplica(t, c.Nodes[0], counterKey(requests[0].Namespace, requests[0].Identifier, &ls[0]))
	master.Pause(t)
	var stuck sync.WaitGroup
	for range 4 * maxSenders {
		stuck.Go(func() {
			if res := decide(t.Context(), s, requests[0]); res.Err != nil {
				t.Errorf("on the node that was paused: %v", res.Err)
			}
		})
	}
	if a, b := s.ServerOf(t.Context(), &requests[0]), s.ServerOf(t.Context(), &requests[1]); a != master.Addr || b == a || b == "" {
		t.Errorf("the keys of the node that hangs are at %s, others at %s, want %s and another", a, b, master.Addr)
	}
	start := time.Now()
	for range 50 {
		for _, r := range requests[1:] {
			if res := decide(t.Context(), s, r); res.Err != nil {
				t.Errorf("on another node: %v", res.Err)
			}
		}
	}
	took := time.Since(start)
	if err := hasty.Health(t.Context()); err != nil {
		t.Errorf("with two of three masters: %v", err)
	}
	master.Resume(t)
	stuck.Wait()
	if took > 2*time.Second { // one that waited for the paused node would take patient
		t.Errorf("100 decisions by the other nodes took %v", took)
	}
	c.Await(t)
}

// namesOnEachMaster returns a name for each of the masters, such that
// {<namespace>:<identifier>} test:<name> is in a slot of it.
func namesOnEachMaster(t *testing.T, c *redistest.Cluster, prefix string) []string {
	t.Helper()
	found := map[*redistest.Server]bool{}
	var names []string
	for i := 0; len(names) < 3; i++ {
		name := fmt.Sprintf("test:%s%d", prefix, i)
		if master, _ := c.MasterAndReplica(t, c.Nodes[0], name); !found[master] {
			found[master] = true
			names = append(names, name)
		}
	}
	return names
}

// testKilledMaster kills a master under load.
func testKilledMaster(t *testing.T, c *redistest.Cluster) {
	s := openWith(t, Options{URLs: c.URLs(), Timeout: 100 * time.Millisecond})
	load := startLoad(t, s, 12)
	load.await(t, "decisions are made", func() error { return load.allEvery(200) })
	victim, _ := c.MasterAndReplica(t, c.Nodes[0], load.keys[0])
	load.outlives(t, s, victim)
	c.Await(t)
}

// testBreakerOutlivesMaster kills a master under load, with a breaker before the store.
// Decisions about keys of other masters go on. Those of the dead master fail at once, and
// go on when its replica has taken over.
func testBreakerOutlivesMaster(t *testing.T, c *redistest.Cluster) {
	coverage := func(required string) { // without this, no node decides until the replica takes over
		t.Helper()
		for _, node := range c.Nodes {
			if err := node.Client(t).ConfigSet(t.Context(), "cluster-require-full-coverage", required).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	coverage("no")
	s := openWith(t, Options{URLs: c.URLs()})
	b := breaker.New(s, s.timeout)
	load := startLoad(t, b, 12)
	load.await(t, "decisions are made", func() error { return load.allEvery(100) })
	victim, _ := c.MasterAndReplica(t, c.Nodes[0], load.keys[0])
	var dead []int
	for i := range load.requests {
		if s.ServerOf(t.Context(), &load.requests[i]) == victim.Addr {
			dead = append(dead, i)
		}
	}
	killed := time.Now()
	victim.Kill()
	load.await(t, "the circuit opens", func() error {
		for _, i := range dead {
			if !errors.Is(load.errs[i], breaker.ErrOpen) {
				return fmt.Errorf("counter %d: %w", i, load.errs[i])
			}
		}
		return nil
	})
	opened := time.Since(killed)
	var took []time.Duration
	for range 100 {
		start := time.Now()
		decide(t.Context(), b, load.requests[dead[0]])
		took = append(took, time.Since(start))
	}
	if n := b.Open(); n > 1 { // none, if the replica has taken over
		t.Errorf("%d circuits are open, want one", n)
	}
	slices.Sort(took)
	load.await(t, "decisions go on", func() error { return load.fine() })
	recovered := time.Since(killed)
	load.stop()
	t.Logf("%d decisions, of which %d failed; the circuit opened %v after the kill, and all was well after %v; half of the answers meanwhile took up to %v",
		load.decisions.Load(), load.failed.Load(), opened, recovered, took[len(took)/2])
	for i, failures := range load.failures {
		if failures > 0 && !slices.Contains(dead, i) {
			t.Errorf("counter %d, of another master: %d decisions failed", i, failures)
		}
	}
	if len(dead) == len(load.requests) {
		t.Error("all counters are the dead master's")
	}
	victim.Restart(t)
	c.Await(t)
	coverage("yes")
}

// testClusterRollingRestart restarts all nodes one after the other under load, as an operator
// does: first the replicas, and each master only after its replica has taken over.
func testClusterRollingRestart(t *testing.T, c *redistest.Cluster) {
	s := openWith(t, Options{URLs: c.URLs(), Timeout: 100 * time.Millisecond})
	load := startLoad(t, s, 12)
	load.await(t, "decisions are made", func() error { return load.allEvery(20) })
	restart := func(node *redistest.Server) {
		t.Helper()
		node.Stop(t)
		node.Restart(t)
		c.Await(t)
	}
	done := map[*redistest.Server]bool{}
	for _, key := range load.keys {
		master, replica := c.MasterAndReplica(t, c.Nodes[0], key)
		if done[master] {
			continue
		}
		restart(replica)
		if err := replica.Client(t).ClusterFailover(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		redistest.Eventually(t, "the replica takes over", func() error {
			for _, node := range c.Nodes {
				if now, _ := c.MasterAndReplica(t, node, key); now != replica {
					return errors.New("not yet")
				}
			}
			return nil
		})
		restart(master)
		done[master], done[replica] = true, true
	}
	load.await(t, "decisions go on", func() error { return load.fine() })
	load.stop()
	lost := load.lost(t, s)
	t.Logf("%d decisions, of which %d failed; lost %d", load.decisions.Load(), load.failed.Load(), lost)
	if lost != 0 || len(done) != 6 {
		t.Errorf("after a restart of %d nodes %d units are lost", len(done), lost)
	}
}
