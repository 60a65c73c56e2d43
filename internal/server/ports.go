package server

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"

	"github.com/ratelimitd/ratelimitd/internal/netlimit"
)

// ports are what a server listens on.
type ports struct {
	grpc, http     net.Listener
	admin, metrics net.Listener // nil: there is none
	resp           net.Listener // the same
}

// listen listens on all addresses. The error says which cannot be listened on; then all
// are closed.
func listen(o Options) (*ports, error) {
	p := new(ports)
	var open []net.Listener
	for _, l := range []struct {
		to                  *net.Listener
		flag, addr, example string
		optional            bool
	}{
		{&p.grpc, "grpc-addr", o.GRPCAddr, "127.0.0.1:8081", false},
		{&p.http, "http-addr", o.HTTPAddr, "127.0.0.1:8080", false},
		{&p.admin, "admin-addr", o.AdminAddr, "127.0.0.1:6070, or off", true},
		{&p.metrics, "metrics-addr", o.Metrics.Addr, "127.0.0.1:9090", true},
		{&p.resp, "resp-addr", o.RESPAddr, "127.0.0.1:6379", true},
	} {
		if l.addr == "" && l.optional {
			continue
		}
		var err error
		if *l.to, err = listenOn(l.flag, l.addr, l.example); err != nil {
			for _, l := range open {
				_ = l.Close()
			}
			return nil, err
		}
		open = append(open, *l.to)
	}
	p.bound(o)
	return p, nil
}

// listenOn listens on the address that a flag gives.
func listenOn(flag, addr, example string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--%s %q: another process listens there (%w): stop it, or give a free port", flag, addr, err)
	default:
		return nil, fmt.Errorf("--%s %q: %w; give an address of this machine, such as %s", flag, addr, err, example)
	}
}

// bound bounds the connections of all ports.
func (p *ports) bound(o Options) {
	o.Connections.Logger = o.Logger
	bound := netlimit.New(o.Connections)
	o.Registry.MustRegister(bound)
	p.grpc = bound.Listen(p.grpc, "grpc")
	p.http = bound.Listen(p.http, "http")
	if p.admin != nil {
		p.admin = bound.Listen(p.admin, "admin")
	}
	if p.metrics != nil {
		p.metrics = bound.Listen(p.metrics, "metrics")
	}
	if p.resp != nil {
		p.resp = bound.Listen(p.resp, "resp")
	}
}

// addrOf returns the address of a listener, or "" if there is none.
func addrOf(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// onLoopback reports whether only this machine reaches a listener.
func onLoopback(l net.Listener) bool {
	addr, ok := l.Addr().(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// serveHTTP serves on l, with TLS if h has it.
func serveHTTP(h *http.Server, l net.Listener) error {
	if h.TLSConfig != nil {
		return h.ServeTLS(l, "", "")
	}
	return h.Serve(l)
}
