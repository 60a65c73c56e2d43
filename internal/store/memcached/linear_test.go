package memcached

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
)

// TestLinearizable has two daemons' stores share two servers.
func TestLinearizable(t *testing.T) {
	one, two := memcachedtest.Start(t), memcachedtest.Start(t)
	o := Options{MaxAttempts: tireless}
	storetest.Linear{Stores: []store.Store{open(t, o, one, two), open(t, o, one, two)}, Skew: maxSkew, Histories: 500}.Check(t)
}

// TestLinearizableOverARestart kills the server, and starts it again. Everything before is
// forgotten, and that is all.
func TestLinearizableOverARestart(t *testing.T) {
	server := memcachedtest.Start(t)
	o := Options{MaxAttempts: tireless}
	stores := []store.Store{open(t, o, server), open(t, o, server)}
	for range 3 {
		storetest.Linear{Stores: stores, Skew: maxSkew}.CheckCrashes(t, false, func() { server.Restart(t) })
	}
}

// TestALostUpdateIsFound plants one: a proxy makes each cas a set, and so nobody notices that
// another has written.
func TestALostUpdateIsFound(t *testing.T) {
	server := memcachedtest.Start(t)
	careless := storetest.Serve(t, func(c net.Conn) {
		up, err := net.Dial("tcp", server.Addr)
		if err != nil {
			return
		}
		defer up.Close()
		go func() { _, _ = io.Copy(c, up); _ = c.Close() }()
		carelessly(up, bufio.NewReader(c))
	})
	o := Options{MaxAttempts: tireless, Addrs: []string{careless}}
	storetest.Linear{Stores: []store.Store{open(t, o), open(t, o)}, Skew: maxSkew, Histories: 500}.FindsRace(t)
}

// carelessly copies commands, each cas as a set.
func carelessly(to io.Writer, from *bufio.Reader) {
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		size := 0
		if len(words) >= 5 { // with data
			n, err := strconv.Atoi(words[4])
			if err != nil {
				return
			}
			size = n + len("\r\n")
		}
		if words[0] == "cas" {
			line = fmt.Sprintf("set %s\r\n", strings.Join(words[1:5], " "))
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(from, data); err != nil {
			return
		}
		if _, err := to.Write(append([]byte(line), data...)); err != nil {
			return
		}
	}
}
