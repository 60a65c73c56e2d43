package flags

import (
	"net"
	"strings"
	"testing"
)

// FuzzAddress sets addresses: what is accepted is an address, and stays the same
// when it is set again.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"localhost", "::1", "[::1]:1", ":81", "a:b:c", "http://a", "unix:/a", "[", "]:1", "[[a]]", "a%b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var addr string
		v := Address(&addr, "80")
		if v.Set(text) != nil || strings.HasPrefix(text, "unix:") || strings.Contains(text, ":///") {
			return
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			t.Errorf("%q is set to %q: %v", text, addr, err)
		}
		first := addr
		if err := v.Set(first); err != nil || addr != first {
			t.Errorf("%q is set to %q, and that to %q, %v", text, first, addr, err)
		}
	})
}
