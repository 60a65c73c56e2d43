// Package respapi is the front of the API over the protocol of Redis (RESP 2 and 3): it
// decodes commands, calls the core, and encodes replies. Each client of Redis, in any
// language, is so a client of the daemon. It also answers CL.THROTTLE as redis-cell does,
// and THROTTLE as throttlecrab does.
//
// A connection is one goroutine. What it has received at a time is a turn: the commands
// are parsed, those that ask for a decision are decided as one batch of the core, and all
// replies are written at once. So a client that sends many commands before it reads the
// replies pays for the work of few.
//
// The package reads the protocol itself, in parse.go: see docs/dependencies.md.
package respapi

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/peer"

	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
)

// Method is the label of the latency of turns.
const Method = "RESP"

// A Server answers connections. New makes it. It is safe for concurrent use.
type Server struct {
	o        Options
	commands commandCounts
	turns    sync.Pool // of *turn
	ids      atomic.Int64

	ctx      context.Context // of all that is asked; cut when the time to drain is over
	cut      context.CancelFunc
	draining atomic.Bool

	serving sync.WaitGroup // the goroutines of connections

	mu       sync.Mutex // protects the following
	listener net.Listener
	conns    map[*conn]struct{} // nil once the server has begun to stop
}

// New returns a Server.
func New(o Options) *Server {
	s := &Server{o: o, conns: map[*conn]struct{}{}}
	s.turns.New = func() any { return &turn{counts: &s.commands} }
	s.ctx, s.cut = context.WithCancel(context.Background())
	return s
}

// Serve answers the connections that l accepts, until Shutdown: then it returns nil. The
// error is that of l.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	stopped := s.conns == nil
	s.mu.Unlock()
	if stopped {
		_ = l.Close()
		return nil
	}
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			s.start(raw)
		case s.draining.Load():
			return nil
		default:
			return err
		}
	}
}

// start answers a connection in a goroutine of its own.
func (s *Server) start(raw net.Conn) {
	c := &conn{o: &s.o, draining: &s.draining, Conn: raw, raw: raw, id: s.ids.Add(1), client: ipaddr.ClientOf(raw.RemoteAddr())}
	c.base = peer.NewContext(s.ctx, &peer.Peer{Addr: raw.RemoteAddr()})
	s.mu.Lock()
	open := s.conns != nil
	if open {
		s.conns[c] = struct{}{}
		s.serving.Add(1)
	}
	s.mu.Unlock()
	if !open {
		_ = raw.Close()
		return
	}
	go func() {
		defer s.serving.Done()
		defer s.forget(c)
		s.serve(c)
	}()
}

func (s *Server) forget(c *conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// serve answers c until it is to be closed.
func (s *Server) serve(c *conn) {
	if !c.handshake() {
		return
	}
	c.protocol = 2
	c.in = make([]byte, 0, idleBytes)
	for !s.draining.Load() && c.receive() {
		const many = 4 << 10 // bytes of commands
		large := len(c.in) > many
		if !s.answer(c) {
			return
		}
		if large {
			runtime.Gosched() // whoever always has more to ask lets others run before
		}
	}
}

// answer answers the commands that c has received, and keeps the beginning of the next.
func (s *Server) answer(c *conn) (ok bool) {
	t := s.turns.Get().(*turn)
	t.conn = c
	// One allocation for all texts of the turn, and one that is never changed: whoever
	// keeps a part of it needs no copy to be safe.
	size, open := t.answer(string(c.in))
	t.rest()
	if size > 0 {
		c.begun = time.Time{}
	}
	c.in = c.in[:copy(c.in, c.in[size:])]
	if open { // or else it may have panicked
		t.clear()
		s.turns.Put(t)
	}
	return open
}

// Shutdown takes no new connections, has what the others have received answered and
// closes them. When ctx ends it cuts short what is still under way.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	conns := s.conns
	s.conns = nil
	for c := range conns {
		c.wake()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.serving.Wait(); close(done) }()
	defer s.cut()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.cut()
	for c := range conns { // those that wait for a client to read
		_ = c.raw.Close()
	}
	<-done
	return errors.New("connections of the Redis protocol were cut")
}

var commandsDesc = prometheus.NewDesc("ratelimitd_resp_commands_total",
	"Commands answered over the protocol of Redis, by whether the reply is an error. A denial is none.", []string{"command", "result"}, nil)

// Describe implements prometheus.Collector.
func (s *Server) Describe(descs chan<- *prometheus.Desc) { descs <- commandsDesc }

// Collect implements prometheus.Collector.
func (s *Server) Collect(metrics chan<- prometheus.Metric) {
	for c := range s.commands {
		for i, result := range [...]string{"ok", "error"} {
			metrics <- prometheus.MustNewConstMetric(commandsDesc, prometheus.CounterValue, float64(s.commands[c][i].Load()), descriptions[c].name, result)
		}
	}
}
