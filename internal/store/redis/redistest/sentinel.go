package redistest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// A SentinelGroup has a master, two replicas, and three sentinels that watch them. Servers
// and sentinels have passwords.
type SentinelGroup struct {
	MasterName       string
	Password         string
	SentinelPassword string
	Servers          []*Server // at the start, the master comes first
	Sentinels        []*Server
}

// StartSentinel starts a group, and stops it when the test ends.
func StartSentinel(tb testing.TB) *SentinelGroup {
	tb.Helper()
	g := &SentinelGroup{MasterName: "counters", Password: "of-the-servers", SentinelPassword: "of-the-sentinels"}
	for i := range 3 {
		g.Servers = append(g.Servers, start(tb, &redis.Options{Password: g.Password}, func(port string) []string {
			args := []string{
				"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir(),
				"--requirepass", g.Password, "--masterauth", g.Password, "--repl-diskless-sync-delay", "0",
			}
			if i > 0 {
				host, port, _ := net.SplitHostPort(g.Servers[0].Addr)
				args = append(args, "--replicaof", host+" "+port)
			}
			return args
		}))
	}
	for i := range 3 {
		// The first sentinel notices a failure before the others, and needs no second
		// vote. If all three notice it at once, each often votes for itself.
		quorum, downAfter := 2, 1500
		if i == 0 {
			quorum, downAfter = 1, 500
		}
		s := start(tb, &redis.Options{Password: g.SentinelPassword}, func(port string) []string {
			return []string{g.writeConfig(tb, port, quorum, downAfter), "--sentinel"}
		})
		// Let them learn soon of each other and of a failure.
		s.do(tb, "SENTINEL", "DEBUG", "publish-period", 100, "ping-period", 100, "info-period", 100, "ask-period", 100)
		g.Sentinels = append(g.Sentinels, s)
	}
	g.Await(tb)
	for _, s := range g.Sentinels {
		// All sentinels must know of a new master within four of these periods.
		// Otherwise they make it a replica again.
		s.do(tb, "SENTINEL", "DEBUG", "publish-period", 1000)
	}
	return g
}

// writeConfig writes the file in which a sentinel keeps what it knows.
func (g *SentinelGroup) writeConfig(tb testing.TB, port string, quorum, downAfter int) string {
	tb.Helper()
	dir := tb.TempDir()
	host, masterPort, _ := net.SplitHostPort(g.Servers[0].Addr)
	config := fmt.Sprintf(`port %[1]s
bind 127.0.0.1
dir %[2]q
requirepass %[3]s
sentinel sentinel-pass %[3]s
sentinel monitor %[4]s %[5]s %[6]s %[8]d
sentinel auth-pass %[4]s %[7]s
sentinel down-after-milliseconds %[4]s %[9]d
sentinel failover-timeout %[4]s 1500
`, port, dir, g.SentinelPassword, g.MasterName, host, masterPort, g.Password, quorum, downAfter)
	file := filepath.Join(dir, "sentinel.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}

// Await waits until all sentinels know of all servers and of each other, and
// the replicas follow the master.
func (g *SentinelGroup) Await(tb testing.TB) {
	tb.Helper()
	Eventually(tb, "the sentinels agree", func() error {
		for _, s := range g.Sentinels {
			if reply := s.do(tb, "INFO", "sentinel"); !strings.Contains(reply, "status=ok") || !strings.Contains(reply, "slaves=2,sentinels=3") {
				return fmt.Errorf("%s says %s", s.Addr, reply)
			}
			if err := s.try(tb, "SENTINEL", "CKQUORUM", g.MasterName); err != nil {
				return err
			}
		}
		info := g.Master(tb).do(tb, "INFO", "replication")
		if strings.Count(info, "state=online") != 2 {
			return fmt.Errorf("%s", info)
		}
		return nil
	})
}

// Master returns the server that is the master for the first sentinel.
func (g *SentinelGroup) Master(tb testing.TB) *Server {
	tb.Helper()
	reply := g.Sentinels[0].do(tb, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", g.MasterName) // [host port]
	addr := strings.ReplaceAll(strings.Trim(reply, "[]"), " ", ":")
	for _, s := range g.Servers {
		if s.Addr == addr {
			return s
		}
	}
	tb.Fatalf("no server at %s", addr)
	return nil
}

// URLs returns the addresses of the sentinels.
func (g *SentinelGroup) URLs() []string {
	var urls []string
	for _, s := range g.Sentinels {
		urls = append(urls, s.URL)
	}
	return urls
}
