package memcached

import (
	"fmt"
	"testing"
)

// serversAt returns servers to pick from. They are never connected to.
func serversAt(t *testing.T, addrs ...string) []*server {
	t.Helper()
	var servers []*server
	for _, addr := range addrs {
		servers = append(servers, newServer(t.Context(), addr, Options{}, new(goroutines)))
	}
	return servers
}

// TestFewKeysMove adds servers one by one.
func TestFewKeysMove(t *testing.T) {
	const keys = 20_000
	addrs := []string{"10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211", "10.0.0.4:11211", "10.0.0.5:11211"}
	at := make([]string, keys)
	for n := 1; n <= len(addrs); n++ {
		servers := serversAt(t, addrs[:n]...)
		held, moved := map[string]int{}, 0
		for i := range at {
			to := pick(servers, fmt.Sprint("rl:checkout:user:", i)).addr
			held[to]++
			if at[i] != "" && to != at[i] {
				moved++
				if to != addrs[n-1] {
					t.Fatalf("a key moved from %s to %s when %s was added", at[i], to, addrs[n-1])
				}
			}
			at[i] = to
		}
		share := keys / n
		for _, addr := range addrs[:n] {
			if held[addr] < share*9/10 || held[addr] > share*11/10 {
				t.Errorf("%s has %d of %d keys, want about %d", addr, held[addr], keys, share)
			}
		}
		if n > 1 && moved != held[addrs[n-1]] {
			t.Errorf("%d keys moved to the server that was added, which has %d", moved, held[addrs[n-1]])
		}
	}
}

// TestAllDaemonsPickAlike checks that the choice is the same as in other versions of the
// daemon, and the same if the servers are listed in another order.
func TestAllDaemonsPickAlike(t *testing.T) {
	servers, others := serversAt(t, "a:1", "b:2", "c:3"), serversAt(t, "c:3", "a:1", "b:2")
	var picks string
	for i := range 16 {
		key := fmt.Sprint("rl:checkout:user:", i)
		addr := pick(servers, key).addr
		if other := pick(others, key).addr; other != addr {
			t.Errorf("%s is at %s and at %s", key, addr, other)
		}
		picks += addr[:1]
	}
	if want := "acbacbabaacccacb"; picks != want {
		t.Errorf("the servers of 16 keys are %s, want %s", picks, want)
	}
}
