package redistest

import (
	"net"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
)

// Hostile starts a server that answers what the client says when it connects, and
// everything else with one reply, until the test ends. It returns its URL.
func Hostile(t *testing.T, reply storetest.Reply) (url string) {
	t.Helper()
	return "redis://" + storetest.Serve(t, func(c net.Conn) {
		write := func(text string) bool { _, err := c.Write([]byte(text)); return err == nil }
		buffer := make([]byte, 64<<10)
		for {
			n, err := c.Read(buffer)
			if err != nil {
				return
			}
			switch said := strings.ToLower(string(buffer[:n])); {
			case strings.Contains(said, "hello"):
				if !write("-ERR unknown command\r\n") {
					return
				}
				for range strings.Count(said, "client") {
					write("+OK\r\n")
				}
			case strings.Contains(said, "client"):
				for range strings.Count(said, "*") {
					write("+OK\r\n")
				}
			default:
				reply(write)
			}
		}
	})
}

// clock is a time in 2026, as the script has it: microseconds, as a double.
const clock = "\x00\x00\x2c\x7e\xa1\x60\x19\x43"

// ofRightSize returns a reply that has as many bytes as one about a numeric counter, and says
// that it consumed: a clock, and then a text that is repeated.
func ofRightSize(clock, text string) string {
	const ofCounter = 16
	return "$25\r\n" + clock + "\x02" + strings.Repeat(text, ofCounter)[:ofCounter] + "\r\n"
}

// HostileReplies returns replies with more than fits in memory, or in a log line, and
// such as are none.
func HostileReplies() map[string]storetest.Reply {
	long := strings.Repeat("x", 10_000)
	return map[string]storetest.Reply{
		"a text of 512 MB": func(write func(string) bool) { write("$536870912\r\nx") },
		"a list of a billion": func(write func(string) bool) {
			write("*1000000000\r\n")
		},
		"lists of lists": func(write func(string) bool) { write(strings.Repeat("*100000\r\n", 1000)) },
		"an endless error": func(write func(string) bool) {
			for write("-ERR"); write(long); {
			}
		},
		"a long error":          func(write func(string) bool) { write("-ERR \x1b[31m" + long + "\r\n") },
		"a long text":           func(write func(string) bool) { write("$1000000\r\n" + strings.Repeat("\xff", 1_000_000) + "\r\n") },
		"a length that is none": func(write func(string) bool) { write("$" + long + "\r\n") },
		"a negative length":     func(write func(string) bool) { write("*-9223372036854775808\r\n") },
		"what is no reply":      func(write func(string) bool) { write(long + "\r\n") },
		// Replies that are well-formed, but answer no question of ours.
		"nothing":                 func(write func(string) bool) { write("$-1\r\n") },
		"an empty text":           func(write func(string) bool) { write("$0\r\n\r\n") },
		"OK":                      func(write func(string) bool) { write("+OK\r\n") },
		"a number":                func(write func(string) bool) { write(":-1\r\n") },
		"a truth":                 func(write func(string) bool) { write("#t\r\n") },
		"an empty list":           func(write func(string) bool) { write("*0\r\n") },
		"the right size, of ones": func(write func(string) bool) { write(ofRightSize("\xff\xff\xff\xff\xff\xff\xff\xff", "\xff")) },
		"a clock that is none":    func(write func(string) bool) { write(ofRightSize("\x00\x00\x00\x00\x00\x00\xf8\x7f", "0")) },
		"a clock before 1970":     func(write func(string) bool) { write(ofRightSize("\x00\x00\x00\x00\x00\x00\xf0\xbf", "0")) },
		"a counter that is none":  func(write func(string) bool) { write(ofRightSize(clock, "0000x")) },
		"a negative counter":      func(write func(string) bool) { write(ofRightSize(clock, "\xc0-")) },
		"a map of maps of texts":  func(write func(string) bool) { write(strings.Repeat("%2\r\n$5\r\nhello\r\n", 100_000)) },
	}
}
