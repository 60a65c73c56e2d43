package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// A listener is an address that the daemon listens on.
type listener struct{ flag, addr, example string }

// listeners returns the addresses that the daemon listens on.
func (c *Config) listeners() []listener {
	all := []listener{{"grpc-addr", c.GRPCAddr, "127.0.0.1:8081"}, {"http-addr", c.HTTPAddr, "127.0.0.1:8080"}}
	if c.AdminAddr != AdminOff {
		all = append(all, listener{"admin-addr", c.AdminAddr, "127.0.0.1:6070, or off"})
	}
	if c.MetricsAddr != "" {
		all = append(all, listener{"metrics-addr", c.MetricsAddr, "127.0.0.1:9090"})
	}
	if c.RESPAddr != "" {
		all = append(all, listener{"resp-addr", c.RESPAddr, "127.0.0.1:6379"})
	}
	return all
}

func (k *check) addresses() {
	all := k.c.listeners()
	for i, l := range all {
		if problem := addressProblem(l.addr); problem != "" {
			k.problem(l.flag, " %s: %s; write host:port, such as %s", flags.Quote(l.addr), problem, l.example)
			continue
		}
		for _, other := range all[:i] {
			if overlap(l.addr, other.addr) {
				k.problem(l.flag, " %q: --%s has this address too; choose another port", l.addr, other.flag)
			}
		}
	}
}

// testClock adds why there can be no clock that stands still: nobody who is not testing is
// to meet a daemon whose limits never recover.
func (k *check) testClock() {
	if k.c.Store.Kind != Memory {
		k.problem("test-clock", ": with --store=%s the clock is not ours to turn; use --store=memory", k.c.Store.Kind)
	}
	if k.c.AdminAddr == AdminOff {
		k.problem("test-clock", ": the admin port turns the clock, and --admin-addr is off; write --admin-addr=127.0.0.1:0")
	}
	for _, l := range k.c.listeners() {
		host, port, err := net.SplitHostPort(l.addr)
		if err == nil && !addressOf(host).IsLoopback() {
			k.problem("test-clock", ": other machines may reach --%s %s; write --%[1]s=%[3]s", l.flag, flags.Quote(l.addr), net.JoinHostPort("127.0.0.1", port))
		}
	}
}

// overlap reports whether nobody can listen on both addresses. Names of hosts
// are not looked up.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	ipA, ipB := addressOf(hostA), addressOf(hostB)
	switch {
	case hostA == hostB || ipA == ipB && ipA.IsValid():
		return true
	case ipA == netip.IPv6Unspecified() || ipB == netip.IPv6Unspecified():
		return true // which is all of IPv4 too
	default:
		return ipA.Is4() && ipB.Is4() && (ipA.IsUnspecified() || ipB.IsUnspecified())
	}
}

// addressOf returns the IP address of a host, if it is known without a lookup.
func addressOf(host string) netip.Addr {
	switch host {
	case "":
		return netip.IPv6Unspecified()
	case "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	ip, _ := netip.ParseAddr(host)
	return ip.Unmap()
}

// ListenError returns err in plain words, if it says that another process listens
// on an address of c.
func (c *Config) ListenError(err error) error {
	var listen *net.OpError
	if !errors.Is(err, syscall.EADDRINUSE) || !errors.As(err, &listen) || listen.Addr == nil {
		return err
	}
	takenHost, takenPort, _ := net.SplitHostPort(listen.Addr.String())
	for _, l := range c.listeners() {
		host, port, _ := net.SplitHostPort(l.addr)
		if ip := addressOf(host); port == takenPort && (!ip.IsValid() || ip.IsUnspecified() || ip == addressOf(takenHost)) {
			return fmt.Errorf("%s %q: another process listens on this address; stop it, or choose another address", c.nameOf(l.flag), l.addr)
		}
	}
	return err
}
