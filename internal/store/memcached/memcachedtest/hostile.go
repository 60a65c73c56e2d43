package memcachedtest

import (
	"bufio"
	"net"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
)

// Hostile starts a server that answers each command with one reply, until the test
// ends. It returns its address.
func Hostile(t *testing.T, reply storetest.Reply) (addr string) {
	t.Helper()
	return storetest.Serve(t, func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			reply(func(text string) bool { _, err := c.Write([]byte(text)); return err == nil })
		}
	})
}

// HostileReplies returns replies with more than fits in memory, or in a log line, and
// such as are none.
func HostileReplies() map[string]storetest.Reply {
	long := strings.Repeat("x", 10_000)
	return map[string]storetest.Reply{
		"a value of 4 GB": func(write func(string) bool) { write("VALUE rl:test:alice 0 4294967295 1\r\nx") },
		"endless values": func(write func(string) bool) {
			for write("VALUE k 0 1000000 1\r\n" + strings.Repeat(long, 100) + "\r\n") {
			}
		},
		"an endless line": func(write func(string) bool) {
			for write("\x1b[31m" + long) {
			}
		},
		"a long error": func(write func(string) bool) { write("SERVER_ERROR \x1b[31m" + long[:1500] + "\r\n") },
		"no size":      func(write func(string) bool) { write("VALUE k\r\n") },
		// Replies that are well-formed, but answer no question of ours.
		"an item of another key": func(write func(string) bool) { write("VALUE another 0 1 1\r\n\x02\r\nEND\r\n") },
		"an item and another": func(write func(string) bool) {
			write("VALUE another 0 1 1\r\n\x02\r\nVALUE third 0 1 1\r\n\x02\r\nEND\r\n")
		},
		"always stored":     func(write func(string) bool) { write("STORED\r\n") },
		"a number":          func(write func(string) bool) { write("17\r\n") },
		"never stored":      func(write func(string) bool) { write("NOT_STORED\r\n") },
		"no item, for ever": func(write func(string) bool) { write("END\r\n") },
		"what is no number": func(write func(string) bool) { write("VALUE k 0 -1 1\r\n") },
	}
}
