package redis

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A trouble is something that is wrong with a server, or with how a store reaches it.
type trouble struct {
	name    string
	options Options
	begin   func()
	end     func() // nil: it does not end
	says    string // is in the error of each decision; "": decisions are right
	finds   string // is in the log
}

// TestTroubles has servers that are not well, and options that are not right for them. Each
// decision is right, or has an error that says why, for the failure policy. When the trouble
// ends, decisions work, and the store knows as before that identifiers may share scripts.
func TestTroubles(t *testing.T) {
	server, other, secure := redistest.Start(t), redistest.Start(t), redistest.StartTLS(t)
	one := redistest.StartClusterOfOne(t, func(addr string) string { return addr })
	node := redistest.Start(t, "--cluster-enabled", "yes")
	full := redistest.Start(t, "--maxmemory", "2mb", "--maxmemory-policy", "allkeys-lru")
	for _, u := range []string{"keys ~other* +@all", "scripts ~* +@all -@scripting", "writes ~* +@all -set"} {
		do(t, other, "ACL SETUSER "+strings.Replace(u, " ", " on >x ", 1))
	}
	good := Options{URLs: []string{server.URL}}
	run := func(commands ...string) func() { return func() { do(t, server, commands...) } }
	admin := server.Client(t)
	saved := filepath.Join(t.TempDir(), "saved")
	if err := os.Mkdir(saved, 0o700); err != nil {
		t.Fatal(err)
	}
	disk := redistest.Start(t, "--dir", saved)
	saves := disk.Client(t)
	user := func(name string) Options { return Options{URLs: []string{other.URL}, User: name, Password: "x"} }
	for _, trouble := range []trouble{
		{"a replica", good, run("REPLICAOF 127.0.0.1 1"), run("REPLICAOF NO ONE"), "READONLY", ""},
		{"a replica without its master", good, run("CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"), run("REPLICAOF NO ONE"), "MASTERDOWN", ""},
		{"a master without replicas", good, run("CONFIG SET min-replicas-to-write 1"), run("CONFIG SET min-replicas-to-write 0"), "NOREPLICAS", ""},
		{"memory is full", good, run("CONFIG SET maxmemory 1"), run("CONFIG SET maxmemory 0"), "OOM", ""},
		{"the disk is gone", Options{URLs: []string{disk.URL}}, func() {
			if err := os.Remove(saved); err != nil {
				t.Fatal(err)
			}
			saves.ConfigSet(t.Context(), "save", "100000 1")
			do(t, disk, "SET x 1", "BGSAVE")
			redistest.Eventually(t, "saving fails", func() error {
				if info := saves.Info(t.Context(), "persistence").Val(); !strings.Contains(info, "rdb_last_bgsave_status:err") {
					return fmt.Errorf("%s", info)
				}
				return nil
			})
		}, func() { saves.ConfigSet(t.Context(), "save", "") }, "MISCONF", ""},
		{"a script of others", good, func() {
			do(t, server, "CONFIG SET busy-reply-threshold 1")
			client := server.Client(t)
			go client.Do(t.Context(), "EVAL", "while true do end", 0)
			redistest.Eventually(t, "it runs", func() error {
				if err := admin.Ping(t.Context()).Err(); err == nil {
					return fmt.Errorf("not yet")
				}
				return nil
			})
		}, run("SCRIPT KILL"), "BUSY", ""},
		{"too many clients", good, func() {
			admin.ConfigSet(t.Context(), "maxclients", "1")
			admin.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes")
		}, func() { admin.ConfigSet(t.Context(), "maxclients", "1000") }, "max number of clients", ""},
		{"scripts are flushed", good, run("SCRIPT FLUSH"), nil, "", ""},
		{"all is flushed", good, run("FLUSHALL"), nil, "", ""},
		{"no rights to the keys", user("keys"), nil, nil, "NOPERM", "a look for keys is refused"},
		{"no rights to scripts", user("scripts"), nil, nil, "the permissions that docs/redis.md lists", ""},
		{"no rights to write", user("writes"), nil, nil, "the permissions that docs/redis.md lists", ""},
		{"no such database", Options{URLs: []string{other.URL + "/99"}}, nil, nil, "--redis-database", ""},
		{"TLS to a port without", Options{URLs: []string{"rediss://" + other.Addr}, DialTimeout: 100 * time.Millisecond}, nil, nil, "write redis://", ""},
		{"no TLS to a port with it", Options{URLs: []string{"redis://" + secure.Addr}}, nil, nil, "write rediss://", ""},
		{"no cluster", Options{URLs: []string{other.URL}, Cluster: true}, nil, nil, "leave out --redis-cluster", ""},
		{"a cluster without slots", Options{URLs: []string{node.URL}, Cluster: true}, nil, nil, "CLUSTERDOWN", ""},
		{"a cluster that loses slots", Options{URLs: []string{one.URL}, Cluster: true}, func() {
			do(t, one, "CONFIG SET cluster-require-full-coverage no", "CLUSTER DELSLOTSRANGE 0 16383")
		}, nil, "CLUSTERDOWN", ""},
		{"a cluster without slots, as one server", Options{URLs: []string{node.URL}}, nil, nil, "CLUSTERDOWN", "a node of a cluster"},
		{"keys are dropped", Options{URLs: []string{full.URL}}, nil, nil, "", "maxmemory_policy=allkeys-lru"},
	} {
		t.Run(trouble.name, func(t *testing.T) { trouble.test(t) })
	}
}

func (tr *trouble) settle(t *testing.T, s *Store) {
	t.Helper()
	if !tr.options.Cluster {
		settle(t, s)
		return
	}
	redistest.Eventually(t, "the cluster decides", func() error { return s.Health(t.Context()) })
}

func (tr *trouble) test(t *testing.T) {
	var log bytes.Buffer
	o := tr.options
	o.Timeout, o.Logger = time.Second, slog.New(slog.NewTextHandler(&log, nil))
	s := openWith(t, o)
	if tr.begin != nil {
		tr.settle(t, s)
		tr.begin()
	}
	requests, results := make([]store.Request, 20), make([]store.Result, 20)
	for i := range requests {
		requests[i] = store.Request{Namespace: "test", Identifier: fmt.Sprint(tr.name, i%10), Limits: limits(t, strategy.Spec{Rate: "1/h"}), Cost: 1}
	}
	redistest.Eventually(t, "decisions are right, or fail with "+tr.says, func() error {
		s.Decide(t.Context(), requests, results)
		for i, res := range results {
			switch {
			case tr.says == "" && (res.Err != nil || res.Allowed != (i < 10)):
				t.Fatalf("request %d: %+v", i, res)
			case tr.says != "" && res.Err == nil:
				t.Fatalf("request %d is decided: %+v", i, res)
			case tr.says != "" && !strings.Contains(res.Err.Error(), tr.says):
				return res.Err // the first may meet the end of a connection
			}
		}
		return nil
	})
	if err := s.Health(t.Context()); (err == nil) != (tr.says == "") {
		t.Errorf("health: %v", err)
	}
	if tr.end != nil {
		tr.end()
		tr.settle(t, s)
	}
	if evicts := s.evicts.found.Load(); evicts != strings.Contains(tr.finds, "maxmemory") {
		t.Errorf("evicts: %t", evicts)
	}
	if strings.Contains(tr.finds, "a look") { // which goes on beside the decisions
		redistest.Eventually(t, "it has looked for keys", func() error {
			s.owner.mu.Lock()
			defer s.owner.mu.Unlock()
			if !strings.Contains(s.owner.said, tr.finds) {
				return errors.New(s.owner.said)
			}
			return nil
		})
	}
	_ = s.Close()
	if !strings.Contains(log.String(), tr.finds) || strings.Contains(log.String(), "refuses scripts") {
		t.Errorf("the log is to have %q, and no scripts that are refused:\n%s", tr.finds, log.String())
	}
}
