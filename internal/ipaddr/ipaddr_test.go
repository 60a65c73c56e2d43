package ipaddr_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ text, plain, withPort string }{ // "": refused
		{"192.0.2.1", "192.0.2.1", "192.0.2.1"},
		{"2001:DB8:0::1", "2001:db8::1", "2001:db8::1"},
		{"::", "::", "::"},
		{"::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"},
		{"fe80::1%eth0", "fe80::1", "fe80::1"},
		{"::ffff:192.0.2.1%eth0", "192.0.2.1", "192.0.2.1"},
		{"192.0.2.1:443", "", "192.0.2.1"},
		{"[2001:db8::1]", "", "2001:db8::1"},
		{"[2001:db8::1]:443", "", "2001:db8::1"},
		{"[::ffff:192.0.2.1]:443", "", "192.0.2.1"},
		{"[fe80::1%eth0]:443", "", "fe80::1"},
		{"", "", ""},
		{"alice", "", ""},
		{"face", "", ""},
		{"300.1.2.3", "", ""},
		{"192.0.2.01", "", ""},
		{"192.0.2", "", ""},
		{"192.0.2.1 ", "", ""},
		{"192.0.2.0/24", "", ""},
		{"192.0.2.1:", "", ""},
		{"192.0.2.1:65536", "", ""},
		{"[2001:db8::1", "", ""},
		{"[]", "", ""},
		{"fe80::1%" + strings.Repeat("x", 100), "", ""},
	} {
		addr, ok := ipaddr.Parse(tt.text)
		if ok != (tt.plain != "") || ok && addr.String() != tt.plain {
			t.Errorf("Parse(%q): got %v, %v, want %q", tt.text, addr, ok, tt.plain)
		}
		addr, ok = ipaddr.ParseWithPort(tt.text)
		if ok != (tt.withPort != "") || ok && addr.String() != tt.withPort {
			t.Errorf("ParseWithPort(%q): got %v, %v, want %q", tt.text, addr, ok, tt.withPort)
		}
	}
}

func TestParsePrefix(t *testing.T) {
	for text, want := range map[string]string{ // "": refused
		"10.0.0.0/8":          "10.0.0.0/8",
		"10.0.0.7/8":          "10.0.0.7/8",
		"2001:DB8::/32":       "2001:db8::/32",
		"::/0":                "::/0",
		"::ffff:10.0.0.0/104": "10.0.0.0/8",
		"::ffff:0.0.0.0/96":   "0.0.0.0/0",
		"::ffff:0.0.0.0/80":   "::ffff:0.0.0.0/80",
		"10.0.0.0/33":         "",
		"10.0.0.0/":           "",
		"10.0.0.0":            "",
		"fe80::1%eth0/64":     "",
	} {
		if got, ok := ipaddr.ParsePrefix(text); ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: got %v, %v, want %q", text, got, ok, want)
		}
	}
}

// FuzzParse holds that an address has one form, whichever way it was written.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"192.0.2.1:443", "[::ffff:192.0.2.1%x]:1", "fe80::1%eth0", "alice"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) (netip.Addr, bool){ipaddr.Parse, ipaddr.ParseWithPort} {
			addr, ok := parse(s)
			if !ok {
				continue
			}
			if again, ok := parse(addr.String()); !ok || again != addr || addr.Zone() != "" || addr.Is4In6() {
				t.Errorf("%q is %v, which is %v", s, addr, again)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, s := range []string{"user:42", "192.0.2.1", "2001:db8::1", "face-book"} {
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ipaddr.Parse(s)
			}
		})
	}
}

// TestClient holds addresses that are one client's together, and others apart.
func TestClient(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"192.0.2.1:1234", "192.0.2.1/32"},
		{"[::ffff:192.0.2.1]:80", "192.0.2.1/32"},
		{"[2001:db8:1:2:3::4]:80", "2001:db8:1:2::/64"},
		{"[fe80::1%lo]:80", "fe80::/64"},
		{"pipe", "invalid Prefix"},
		{"", "invalid Prefix"},
	} {
		if got := ipaddr.ClientAt(c.addr).String(); got != c.want {
			t.Errorf("%q is of %s, want %s", c.addr, got, c.want)
		}
		at, err := netip.ParseAddrPort(c.addr)
		if err != nil {
			continue
		}
		if got := ipaddr.ClientOf(net.TCPAddrFromAddrPort(at)).String(); got != c.want {
			t.Errorf("%q is of %s, want %s", c.addr, got, c.want)
		}
	}
}
