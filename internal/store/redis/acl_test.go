package redis

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// documentedACL returns the arguments of the ACL SETUSER command in docs/redis.md.
func documentedACL(t *testing.T) []any {
	t.Helper()
	page, err := os.ReadFile("../../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(page), "redis-cli ACL ")
	command, _, closed := strings.Cut(after, "```")
	if !found || !closed {
		t.Fatal("docs/redis.md has no ACL SETUSER")
	}
	args := []any{"ACL"}
	for word := range strings.FieldsSeq(strings.ReplaceAll(command, "\\\n", " ")) {
		args = append(args, strings.Trim(word, "'"))
	}
	return args
}

// denied returns what the server has refused to let users do.
func denied(t *testing.T, node *redistest.Server) any {
	t.Helper()
	log, err := node.Client(t).Do(t.Context(), "ACL", "LOG").Slice()
	if err != nil {
		t.Fatal(err)
	}
	if len(log) > 0 {
		return log
	}
	return nil
}

// useAll makes a store use every command that it ever uses.
func useAll(t *testing.T, o Options) {
	t.Helper()
	o.User, o.Password = "ratelimitd", "secret"
	s := openWith(t, o)
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		r := store.Request{Namespace: "test", Identifier: "acl " + id, Limits: limits(t, oneOfEach...), Cost: 1}
		for range 3 {
			if res := decide(t.Context(), s, r); res.Err != nil {
				t.Error(res.Err)
			}
		}
		if err := s.Reset(t.Context(), &r); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if _, err := s.Agree(t.Context(), "test-value", []byte("x")); err != nil {
			t.Error(err)
		}
	}
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestACL uses a server with the permissions that the daemon needs, as docs/redis.md lists
// them.
func TestACL(t *testing.T) {
	server := redistest.Start(t)
	if err := server.Client(t).Do(t.Context(), documentedACL(t)...).Err(); err != nil {
		t.Fatal(err)
	}
	useAll(t, Options{URLs: []string{server.URL}})
	if log := denied(t, server); log != nil {
		t.Errorf("Redis has refused %v", log)
	}
}

// TestACLWithoutSome has a user who may not use the commands that only save time. Limits hold as
// with them.
func TestACLWithoutSome(t *testing.T) {
	for _, without := range [][]any{{"-incrby", "-mget", "-exists"}, {"-exists"}, {"-incrby"}} {
		t.Run(fmt.Sprint(without...), func(t *testing.T) {
			server := redistest.Start(t)
			client := server.Client(t)
			if err := client.Do(t.Context(), append(documentedACL(t), without...)...).Err(); err != nil {
				t.Fatal(err)
			}
			s := openWith(t, Options{URLs: []string{server.URL}, User: "ratelimitd", Password: "secret"})
			settle(t, s)
			r := store.Request{Namespace: "test", Identifier: "without", Cost: 1, Limits: limits(t,
				strategy.Spec{Rate: "3/366d"}, strategy.Spec{Rate: "5/366d"},
				strategy.Spec{Rate: "4/366d", Strategy: strategy.TokenBucket}, strategy.Spec{Rate: "9/366d", Name: "named"})}
			windows := r
			windows.Limits = r.Limits[:2]
			for i, r := range []store.Request{r, windows, r, windows} {
				res := decide(t.Context(), s, r)
				if res.Err != nil || res.Allowed != (i < 3) {
					t.Errorf("decision %d: %+v", i+1, res)
				}
			}
			if n := client.Exists(t.Context(), counterKey("test", "without", &r.Limits[0])).Val(); n != 1 {
				t.Error("the counter of the first limit is not there")
			}
		})
	}
}

// testClusterACL does the same with a cluster, while a slot moves. ASK redirects the client to
// the other node.
func testClusterACL(t *testing.T, c *redistest.Cluster) {
	for _, node := range c.Nodes {
		if err := node.Client(t).Do(t.Context(), documentedACL(t)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	useAll(t, Options{URLs: c.URLs()})

	r := store.Request{Namespace: "test", Identifier: "acl asks", Limits: limits(t, strategy.Spec{Rate: "5/h"}), Cost: 1}
	key := counterKey(r.Namespace, r.Identifier, &r.Limits[0])
	from, _ := c.MasterAndReplica(t, c.Nodes[0], key)
	to := c.Nodes[0]
	if to == from {
		to = c.Nodes[1]
	}
	slot := c.Slot(t, key)
	run := func(node *redistest.Server, args ...any) {
		t.Helper()
		if err := node.Client(t).Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	run(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", c.ID(t, from))
	run(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", c.ID(t, to))
	s := openWith(t, Options{URLs: c.URLs(), User: "ratelimitd", Password: "secret"})
	if res := decide(t.Context(), s, r); res.Err != nil {
		t.Errorf("while its slot moves: %v", res.Err)
	}
	if err := s.Reset(t.Context(), &r); err != nil {
		t.Errorf("while its slot moves: %v", err)
	}
	for _, node := range []*redistest.Server{to, from} {
		run(node, "CLUSTER", "SETSLOT", slot, "STABLE")
	}
	for _, node := range c.Nodes {
		if log := denied(t, node); log != nil {
			t.Errorf("%s has refused %v", node.Addr, log)
		}
	}
}
