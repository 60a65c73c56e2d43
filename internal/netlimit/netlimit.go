// Package netlimit bounds the connections that a daemon accepts: in all, and
// from each address. Probes of its health get through even then.
//
// A connection that is over the bound of its address is closed at once. When the
// connections in all are at their bound, or the process has no file descriptor
// left, a further connection is a spare one: it works as any other, and is closed
// after SpareLife. That is time enough for a probe. If a port has all its spare
// connections, the oldest makes room for the next. So whoever fills a port cannot
// keep a probe out for long.
package netlimit

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
)

const (
	// SpareLife is how long a spare connection stays open: enough for a probe,
	// also one that begins with a TLS handshake.
	SpareLife = 2 * time.Second
	// minSpares and maxSpares are how many spare connections a port has at a time:
	// a 64th of the descriptors, within these bounds.
	minSpares, maxSpares = 4, 16
	// minReserve and maxReserve are how many file descriptors each port holds back:
	// a 256th. It gives them to spare connections when the process has no other left.
	minReserve, maxReserve = 2, 4
	// minSpareLife is how long a spare connection stays at least when descriptors are
	// short: enough for a probe that has come as it should.
	minSpareLife = 100 * time.Millisecond
	// retryAfter is how long a port waits if it has no descriptor to give.
	retryAfter = 20 * time.Millisecond

	// defaultMost is the default of Options.Max where descriptors allow more. An
	// idle gRPC connection takes about 50 KB.
	defaultMost = 20_000
)

// Options say how many connections there may be. The zero Options are the
// defaults, but for Logger, which is required.
type Options struct {
	// Max is for all ports together. 0 means three quarters of the file
	// descriptors that the process may have, and at most 20,000. More than three
	// quarters are not used: the rest is for stores and files.
	Max int
	// PerAddress is for each IPv4 address and each IPv6 network of 64 bits. 0
	// means half of Max, but no bound for loopback addresses: there a proxy or a
	// sidecar may stand for all callers.
	PerAddress int

	Logger *slog.Logger
}

// A Bound is a bound on the connections of several ports. New makes it. It is
// safe for concurrent use.
type Bound struct {
	max, perAddress int
	spares, reserve int  // of each port
	loopback        bool // whether perAddress holds for loopback addresses too
	logger          *slog.Logger
	refused         lograte.Gate // of log lines about addresses with too many connections
	crowded         lograte.Gate // about spare connections
	exhausted       lograte.Gate // about descriptors
	failed          lograte.Gate // about other failures to accept

	mu    sync.Mutex           // protects the following, and what the listeners have
	open  int                  // connections without the spare ones
	from  map[netip.Prefix]int // connections with the spare ones, by address
	ports []*listener
}

// New returns a Bound. It logs a warning if the process may have too few file
// descriptors for o.Max.
func New(o Options) *Bound {
	most := maxDescriptors() / 4 * 3
	switch {
	case o.Max == 0:
		o.Max = min(most, defaultMost)
	case o.Max > most:
		o.Logger.Warn("fewer connections are allowed than configured, because the process may have too few open files; raise that limit, as with ulimit -n or LimitNOFILE",
			"max_connections", o.Max, "allowed", most, "open_files", maxDescriptors())
		o.Max = most
	}
	loopback := o.PerAddress > 0
	if o.PerAddress == 0 {
		o.PerAddress = max(o.Max/2, 1)
	}
	return &Bound{
		max: o.Max, perAddress: o.PerAddress, loopback: loopback,
		spares: max(minSpares, min(maxDescriptors()/64, maxSpares)), reserve: max(minReserve, min(maxDescriptors()/256, maxReserve)),
		logger: o.Logger, from: map[netip.Prefix]int{},
	}
}

// Listen returns l with its connections bounded by b. name is what metrics and
// the log call the port.
func (b *Bound) Listen(l net.Listener, name string) net.Listener {
	p := &listener{Listener: l, bound: b, name: name, closed: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	p.refillLocked()
	b.ports = append(b.ports, p)
	return p
}

// A listener is a port.
type listener struct {
	net.Listener
	bound *Bound
	name  string

	closing sync.Once
	closed  chan struct{}

	// The mutex of bound protects these.
	connections int
	spares      []*conn    // the oldest first
	reserve     []*os.File // descriptors held back
	short       bool       // whether there was none for the next connection

	overAddress, overAll, toSpare, exhaustions atomic.Uint64 // for the metrics
}

// Accept implements net.Listener. It does not return a connection that is over
// the bound of its address.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		switch {
		case err == nil:
			if c := l.admit(raw); c != nil {
				return c, nil
			}
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
			l.makeRoom(err)
		case slices.ContainsFunc(passing, func(e error) bool { return errors.Is(err, e) }):
			if n := l.bound.failed.Pass(time.Now()); n > 0 {
				l.bound.logger.Warn("a connection cannot be accepted; trying again", "port", l.name, "error", err, "times", n)
			}
			l.pause()
		default:
			return nil, err
		}
	}
}

// passing are errors of one connection, or of the network or the system at the moment:
// the port itself is well. (The servers would end for some of them.)
var passing = []error{
	syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPROTO, syscall.EPERM,
	syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
}

// pause waits a little.
func (l *listener) pause() {
	select {
	case <-time.After(retryAfter):
	case <-l.closed:
	}
}

// Close implements net.Listener. It does not close connections.
func (l *listener) Close() error {
	err := l.Listener.Close()
	l.closing.Do(func() {
		close(l.closed)
		l.bound.mu.Lock()
		defer l.bound.mu.Unlock()
		for _, f := range l.reserve {
			_ = f.Close()
		}
		l.reserve = nil
	})
	return err
}

// admit returns raw as a connection that is counted, or nil if it closed raw.
func (l *listener) admit(raw net.Conn) net.Conn {
	c := &conn{Conn: raw, port: l, addr: ipaddr.ClientOf(raw.RemoteAddr())}
	b := l.bound
	b.mu.Lock()
	if c.addr.IsValid() && b.from[c.addr] >= b.perAddress && (b.loopback || !c.addr.Addr().IsLoopback()) {
		b.mu.Unlock()
		_ = raw.Close()
		l.overAddress.Add(1)
		if n := b.refused.Pass(time.Now()); n > 0 {
			b.logger.Warn("an address has as many connections as it may have, and its newest is closed; if all callers share it, raise --max-connections-per-address",
				"port", l.name, "from", raw.RemoteAddr().String(), "max_connections_per_address", b.perAddress, "connections", n)
		}
		return nil
	}
	b.from[c.addr]++
	l.connections++
	var oldest *conn
	if c.spare = l.isShortLocked() || b.open >= b.max; c.spare {
		if len(l.spares) >= b.spares {
			oldest = l.spares[0]
		}
		l.spares = append(l.spares, c)
		c.opened = time.Now()
		c.timer = time.AfterFunc(SpareLife, func() { _ = c.Close() })
	} else {
		b.open++
	}
	b.mu.Unlock()
	if c.spare {
		l.toSpare.Add(1)
		if n := b.crowded.Pass(time.Now()); n > 0 {
			b.logger.Warn("there are as many connections as there may be, and a new one is closed after a moment; see who holds them, or raise --max-connections",
				"port", l.name, "from", raw.RemoteAddr().String(), "max_connections", b.max, "connections", n)
		}
	}
	if oldest != nil {
		l.overAll.Add(1)
		_ = oldest.Close()
	}
	return c
}

// makeRoom frees a file descriptor for the next connection: one that is held
// back, or that of the oldest spare connection of any port. If there is neither, or it
// is too young, it waits a little: the system says that there is no descriptor even if
// no connection waits for one.
func (l *listener) makeRoom(err error) {
	b := l.bound
	l.exhaustions.Add(1)
	if n := b.exhausted.Pass(time.Now()); n > 0 {
		b.logger.Error("no file descriptor is left for a new connection; raise the limit on open files, as with ulimit -n or LimitNOFILE, or lower --max-connections",
			"port", l.name, "error", err, "times", n)
	}
	b.mu.Lock()
	l.short = true
	var oldest *conn
	last := len(l.reserve) - 1
	switch {
	case last >= 0:
		_ = l.reserve[last].Close()
		l.reserve = l.reserve[:last]
	default:
		oldest = b.oldestLocked(time.Now().Add(-minSpareLife))
	}
	b.mu.Unlock()
	switch {
	case last >= 0:
	case oldest != nil:
		oldest.port.overAll.Add(1)
		_ = oldest.Close()
	default:
		l.pause()
	}
}

// oldestLocked returns the spare connection that was opened first, if that was before
// some time. The mutex must be held.
func (b *Bound) oldestLocked(before time.Time) (oldest *conn) {
	for _, l := range b.ports {
		if len(l.spares) > 0 && l.spares[0].opened.Before(before) {
			oldest, before = l.spares[0], l.spares[0].opened
		}
	}
	return oldest
}

// isShortLocked reports whether the connection just accepted has the descriptor
// that was held back for it, and the process still has no other. The mutex of the
// bound must be held.
func (l *listener) isShortLocked() bool {
	if !l.short {
		return false
	}
	l.short = false
	l.refillLocked()
	return len(l.reserve) < l.bound.reserve
}

// refillLocked holds descriptors back again, as far as there are any. The mutex
// of the bound must be held.
func (l *listener) refillLocked() {
	select {
	case <-l.closed:
		return
	default:
	}
	for len(l.reserve) < l.bound.reserve && !l.short {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		l.reserve = append(l.reserve, f)
	}
}

// A conn is a connection that is counted until it is closed.
type conn struct {
	net.Conn
	port   *listener
	addr   netip.Prefix // the zero Prefix if it has none
	spare  bool
	timer  *time.Timer // closes a spare connection
	opened time.Time   // of a spare connection

	counted sync.Once // for no longer being counted
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.counted.Do(func() {
		l, b := c.port, c.port.bound
		b.mu.Lock()
		defer b.mu.Unlock()
		l.connections--
		if b.from[c.addr]--; b.from[c.addr] == 0 {
			delete(b.from, c.addr)
		}
		if !c.spare {
			b.open--
			l.refillLocked()
			return
		}
		c.timer.Stop()
		l.spares = slices.DeleteFunc(l.spares, func(s *conn) bool { return s == c })
		l.refillLocked()
	})
	return err
}
