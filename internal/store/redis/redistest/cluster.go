package redistest

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// A Cluster has six servers: three masters, each with a third of the slots, and one
// replica of each master.
type Cluster struct {
	Nodes []*Server // at the start, the masters come first
}

const clusterMasters, clusterNodes = 3, 6

// StartCluster starts a cluster, and stops it when the test ends.
func StartCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{}
	buses := map[*Server]string{}
	for range clusterNodes {
		var bus string
		node := start(tb, &redis.Options{}, func(port string) []string {
			bus = freePort(tb)
			return []string{
				"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir(),
				"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "1000",
				"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", // a replica counts from its first byte on
			}
		})
		buses[node] = bus
		c.Nodes = append(c.Nodes, node)
	}
	for i, node := range c.Nodes {
		node.do(tb, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < clusterMasters {
			node.do(tb, "CLUSTER", "ADDSLOTSRANGE", i*16384/clusterMasters, (i+1)*16384/clusterMasters-1)
		}
		for _, other := range c.Nodes[:i] {
			host, port, _ := net.SplitHostPort(other.Addr)
			node.do(tb, "CLUSTER", "MEET", host, port, buses[other])
		}
	}
	for i, node := range c.Nodes[clusterMasters:] {
		id := c.Nodes[i].do(tb, "CLUSTER", "MYID")
		Eventually(tb, "the nodes of the cluster meet", func() error { return node.try(tb, "CLUSTER", "REPLICATE", id) })
	}
	c.Await(tb)
	return c
}

// StartClusterOfOne starts a cluster of one node. It tells clients to use the given
// address, which is that of a proxy in front of it.
func StartClusterOfOne(tb testing.TB, known func(addr string) string) *Server {
	tb.Helper()
	s := start(tb, &redis.Options{}, func(port string) []string {
		return []string{
			"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir(),
			"--cluster-enabled", "yes", "--cluster-port", freePort(tb), "--cluster-announce-ip", "127.0.0.1",
		}
	})
	_, port, _ := net.SplitHostPort(known(s.Addr))
	s.do(tb, "CONFIG", "SET", "cluster-announce-port", port)
	s.do(tb, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
	Eventually(tb, "the cluster is whole", func() error {
		if info := s.do(tb, "CLUSTER", "INFO"); !strings.Contains(info, "cluster_state:ok") {
			return errors.New(info)
		}
		return nil
	})
	return s
}

// Await waits until all nodes of the cluster agree that each slot has a master
// and each master a replica that follows it.
func (c *Cluster) Await(tb testing.TB) {
	tb.Helper()
	Eventually(tb, "the cluster is whole", func() error {
		for _, node := range c.Nodes {
			if info := node.do(tb, "CLUSTER", "INFO"); !strings.Contains(info, "cluster_state:ok") {
				return fmt.Errorf("%s says %s", node.Addr, info)
			}
			masters, replicas := 0, 0
			for line := range strings.Lines(node.do(tb, "CLUSTER", "NODES")) {
				switch {
				case strings.Contains(line, "fail"), strings.Contains(line, "handshake"):
					return errors.New(line)
				case strings.Contains(line, "slave"):
					replicas++
				case len(strings.Fields(line)) > 8: // it has slots
					masters++
				}
			}
			if masters != clusterMasters || replicas != clusterNodes-clusterMasters {
				return fmt.Errorf("%s sees %d masters and %d replicas", node.Addr, masters, replicas)
			}
			slots, err := node.client().ClusterSlots(tb.Context()).Result() //nolint:staticcheck // what clients ask
			if err != nil {
				return err
			}
			for _, s := range slots {
				if len(s.Nodes) != 2 {
					return fmt.Errorf("%s says %v", node.Addr, slots)
				}
			}
			if info := node.do(tb, "INFO", "replication"); strings.Contains(info, "master_link_status:down") {
				return fmt.Errorf("%s is not in step:\n%s", node.Addr, info)
			}
		}
		return nil
	})
}

// URLs returns the addresses of all nodes.
func (c *Cluster) URLs() []string {
	var urls []string
	for _, node := range c.Nodes {
		urls = append(urls, node.URL)
	}
	return urls
}

// Client returns a client of the cluster, closed when the test ends.
func (c *Cluster) Client(tb testing.TB) *redis.ClusterClient {
	var addrs []string
	for _, node := range c.Nodes {
		addrs = append(addrs, node.Addr)
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Slot returns the slot of key.
func (c *Cluster) Slot(tb testing.TB, key string) int {
	tb.Helper()
	slot, err := strconv.Atoi(c.Nodes[0].do(tb, "CLUSTER", "KEYSLOT", key))
	if err != nil {
		tb.Fatal(err)
	}
	return slot
}

// MasterAndReplica returns the nodes that have the slot of key, as ask sees it.
func (c *Cluster) MasterAndReplica(tb testing.TB, ask *Server, key string) (master, replica *Server) {
	tb.Helper()
	slot := c.Slot(tb, key)
	Eventually(tb, "the slot has a master and a replica", func() error {
		slots, err := ask.client().ClusterSlots(tb.Context()).Result() //nolint:staticcheck // what clients ask
		if err != nil {
			return err
		}
		for _, s := range slots {
			if s.Start <= slot && slot <= s.End && len(s.Nodes) == 2 {
				master, replica = c.node(tb, s.Nodes[0].Addr), c.node(tb, s.Nodes[1].Addr)
				return nil
			}
		}
		return fmt.Errorf("slot %d in %v", slot, slots)
	})
	return master, replica
}

func (c *Cluster) node(tb testing.TB, addr string) *Server {
	tb.Helper()
	for _, node := range c.Nodes {
		if node.Addr == addr {
			return node
		}
	}
	tb.Fatalf("no node at %s", addr)
	return nil
}

// ID returns the name of a node within the cluster.
func (c *Cluster) ID(tb testing.TB, node *Server) string {
	tb.Helper()
	return node.do(tb, "CLUSTER", "MYID")
}
