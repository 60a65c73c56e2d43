// Package ipaddr reads IP addresses and networks as people and programs write
// them, and returns one form for all the ways to write the same one. Whoever is
// limited by address must not get a second limit by writing it differently.
package ipaddr

import (
	"net"
	"net/netip"
	"strings"
)

// maxBytes is enough for an address with a zone.
const maxBytes = 64

// Parse returns the address that s is, and whether s is one. An IPv4 address
// that is written as IPv6, such as ::ffff:192.0.2.1, is returned as IPv4. The
// zone of fe80::1%eth0 is left out: it names an interface of this machine, and
// the caller can choose it freely.
func Parse(s string) (netip.Addr, bool) {
	// Most identifiers are not addresses. For these, this costs less than an
	// error of netip.
	if s == "" || len(s) > maxBytes || !isHex(s[0]) && s[0] != ':' {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(s)
	return addr.Unmap().WithZone(""), err == nil
}

// ParseWithPort is Parse for an address that may have a port, as a proxy writes
// it: 192.0.2.1, 192.0.2.1:443, 2001:db8::1, [2001:db8::1] or [2001:db8::1]:443.
// It drops the port.
func ParseWithPort(s string) (netip.Addr, bool) {
	if addr, ok := Parse(s); ok {
		return addr, true
	}
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		return Parse(inner[:len(inner)-1])
	}
	withPort, err := netip.ParseAddrPort(s)
	return withPort.Addr().Unmap().WithZone(""), err == nil
}

// ParsePrefix returns the network that s is, such as 10.0.0.0/8, and whether s
// is one. It keeps the bits beyond the prefix length, for the caller to judge.
// An IPv4 network that is written as IPv6 is returned as IPv4, like the
// addresses in it.
func ParsePrefix(s string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	if mapped := prefix.Bits() - (128 - 32); prefix.Addr().Is4In6() && mapped >= 0 {
		return netip.PrefixFrom(prefix.Addr().Unmap(), mapped), true
	}
	return prefix, true
}

// clientBits is how much of an IPv6 address tells one client from another. Whoever has
// one address in a network of so many bits has all.
const clientBits = 64

// ClientOf returns what counts as the address of a client that is at addr. It is not valid
// if addr is no address of IP with a port.
func ClientOf(addr net.Addr) netip.Prefix {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return clientAt(tcp.AddrPort().Addr())
	}
	return ClientAt(addr.String())
}

// ClientAt is ClientOf for the text of an address with a port.
func ClientAt(addr string) netip.Prefix {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.Prefix{}
	}
	return clientAt(at.Addr())
}

func clientAt(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = clientBits
	}
	prefix, _ := ip.Prefix(bits) // fails of no address that is valid
	return prefix
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }
