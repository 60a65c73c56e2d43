package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// Bounds of what a server may reply. The client allocates what a reply announces
// before the rest of it has come, so they are kept before the client sees it.
const (
	// maxReplyBytes is how much memory one reply may take. The largest that a
	// server has reason to send are a batch of decisions, at 25 bytes for each
	// limit, and what a cluster says of its slots.
	maxReplyBytes = 4 << 20
	// maxLineBytes is how long a line may be: an error, say.
	maxLineBytes = 16 << 10
	// maxReplyDepth is how deep a reply may be nested. CLUSTER SLOTS has five
	// levels, and COMMAND with subcommands six.
	maxReplyDepth = 16
	// elementBytes is what each element of a list takes in memory, apart from its
	// text.
	elementBytes = 16
)

// errReply is wrapped by the error of a connection whose server sends what no
// server should.
var errReply = errors.New("the server sends what is no reply of a Redis server")

// A dialer opens connections.
type dialer struct {
	timeout time.Duration // of each attempt, with the handshake of TLS
	secure  *tls.Config   // nil: without TLS
	// host is that of an address without one, as in the redirects of a cluster that does
	// not know its hosts.
	host   string
	secret *secret // by which open connections say anew who they are; nil: they need not

	last atomic.Pointer[error] // why the last attempt failed; nil: it did not
	lone atomic.Pointer[lone]  // the caller that sends its own question now; nil: none does
}

// failure returns why the last attempt to connect failed, or nil. Callers often do not wait
// for so long that they get it themselves.
func (d *dialer) failure() error {
	if err := d.last.Load(); err != nil {
		return *err
	}
	return nil
}

// dial opens a connection.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.connect(ctx, network, addr)
	if err != nil {
		err = quote.Error(err)
		d.last.Store(&err)
		return nil, err
	}
	d.last.Store(nil)
	return c, nil
}

func (d *dialer) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	plain := net.Dialer{
		// Find a server that is gone for good well before an idle connection to it is
		// needed.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	if strings.HasPrefix(addr, ":") {
		addr = net.JoinHostPort(d.host, addr[1:])
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c := &conn{timeout: d.timeout, secret: d.secret, lone: &d.lone}
	if d.secret != nil { // the client asks for the credentials after this
		c.version = d.secret.state.Load().version
	}
	tcp, err := plain.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.Conn = tcp
	c.socket, _ = tcp.(syscall.Conn)
	if d.secure != nil {
		secure := tls.Client(tcp, d.configFor(addr))
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = tcp.Close()
			return nil, fmt.Errorf("the handshake of TLS with %s fails (write redis:// if its port is without TLS): %w", addr, err)
		}
		c.Conn = secure
	}
	return c, nil
}

// configFor returns the configuration of TLS for a server, in whose certificate its host
// is to be, unless there is another name.
func (d *dialer) configFor(addr string) *tls.Config {
	if d.secure.ServerName != "" {
		return d.secure
	}
	config := d.secure.Clone()
	config.ServerName, _, _ = net.SplitHostPort(addr)
	return config
}

// A conn is a connection that fails when a reply is larger than it may be. The client has
// it in turn for one command or pipeline at a time.
type conn struct {
	net.Conn
	socket  syscall.Conn // below TLS; nil if there is none
	replies replyScanner

	timeout time.Duration
	secret  *secret
	version int       // of the secret that the server has accepted
	notYet  time.Time // until when the server is not told of another: it has refused it

	lone *atomic.Pointer[lone] // the dialer's
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	if l := c.lone.Load(); l != nil && t.Equal(l.deadline) {
		return l.reads(c.Conn)
	}
	return c.Conn.SetReadDeadline(t)
}

// Read implements net.Conn. What breaks a bound is not returned.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if broken := c.replies.scan(p[:n]); broken != nil {
		_ = c.Close()
		return 0, broken
	}
	return n, err
}

// SyscallConn implements syscall.Conn, which the client asks for before it uses a
// connection again. An error makes it take another one. What this returns finds nothing
// wrong: the client itself would look at a connection with TLS in a way that may hang.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if c.socket != nil {
		if err := peek(c.socket); err != nil {
			return nil, err
		}
	}
	if err := c.renew(); err != nil {
		return nil, err
	}
	return nothingWrong{}, nil
}

// renew tells the server who this client is, if the secret has changed. A server that
// refuses it goes on as before.
func (c *conn) renew() error {
	if c.secret == nil {
		return nil
	}
	now, said := time.Now(), c.secret.look()
	if said.version == c.version || now.Before(c.notYet) {
		return nil
	}
	if err := c.SetDeadline(now.Add(c.timeout)); err != nil {
		return err
	}
	if _, err := c.Write(appendAuth(nil, said.credentials)); err != nil {
		return err
	}
	reply, err := c.readLine()
	if err != nil {
		return err
	}
	switch reply[0] {
	case '+':
		c.version = said.version
	case '-':
		c.secret.refused(reply)
		c.notYet = now.Add(c.secret.every)
	default:
		return fmt.Errorf("%w: to AUTH %q", errReply, reply)
	}
	return c.SetDeadline(time.Time{})
}

// readLine reads a reply of one line, after which the server sends nothing.
func (c *conn) readLine() (string, error) {
	var line []byte
	var some [512]byte
	for {
		n, err := c.Read(some[:])
		line = append(line, some[:n]...)
		if text, ends := strings.CutSuffix(string(line), "\r\n"); ends && text != "" && !strings.Contains(text, "\n") {
			return text, nil
		}
		if err != nil {
			return "", err
		}
		if len(line) > maxLineBytes {
			return "", errReply
		}
	}
}

// nothingWrong is a syscall.RawConn of which nobody gets to see the descriptor.
type nothingWrong struct{}

func (nothingWrong) Control(func(uintptr)) error    { return nil }
func (nothingWrong) Read(func(uintptr) bool) error  { return nil }
func (nothingWrong) Write(func(uintptr) bool) error { return nil }

// A replyScanner follows replies, in the protocols RESP2 and RESP3, as they come
// in. It remembers no text but the first bytes of the line it is in.
type replyScanner struct {
	skip  int      // bytes of a text that are to come
	line  int      // bytes of the line so far
	start [24]byte // the first of them: a type and a number fit
	cost  int      // what the reply takes in memory so far

	depth int                // how many lists the next element is in
	left  [maxReplyDepth]int // elements to come, of each of these
}

// scan reads what comes next. The error says which bound it breaks.
func (s *replyScanner) scan(b []byte) error {
	for len(b) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(b))
			s.skip -= n
			b = b[n:]
			if s.skip == 0 {
				s.ended()
			}
			continue
		}
		c := b[0]
		b = b[1:]
		if s.line < len(s.start) {
			s.start[s.line] = c
		}
		if s.line++; s.line > maxLineBytes {
			return fmt.Errorf("%w: a line of more than %d bytes", errReply, maxLineBytes)
		}
		if c == '\n' {
			err := s.header()
			s.line = 0
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// header reads a line that has ended.
func (s *replyScanner) header() error {
	if err := s.charge(s.line); err != nil {
		return err
	}
	switch kind := s.start[0]; kind {
	case '$', '!', '=': // a text follows
		n, err := s.number()
		switch {
		case err != nil:
			return err
		case n < 0:
			s.ended()
			return nil
		}
		s.skip = n + len("\r\n")
		return s.charge(n)
	case '*', '~', '>', '%', '|': // elements follow
		n, err := s.number()
		if err != nil {
			return err
		}
		if kind == '%' || kind == '|' { // keys and values
			n *= 2
		}
		if n <= 0 {
			s.ended()
			return nil
		}
		if s.depth == maxReplyDepth {
			return fmt.Errorf("%w: lists nested more than %d deep", errReply, maxReplyDepth)
		}
		s.left[s.depth] = n
		s.depth++
		return s.charge(n * elementBytes)
	default:
		s.ended()
		return nil
	}
}

// number returns the number on the line: -1, or a length.
func (s *replyScanner) number() (int, error) {
	text := string(s.start[1:max(1, min(s.line, len(s.start))-len("\r\n"))])
	n, err := strconv.Atoi(text)
	if err != nil || n < -1 || s.line > len(s.start) {
		return 0, fmt.Errorf("%w: a length of %q", errReply, text)
	}
	if n > maxReplyBytes {
		return 0, fmt.Errorf("%w: a reply of more than %d bytes", errReply, maxReplyBytes)
	}
	return n, nil
}

// charge adds to what the reply takes.
func (s *replyScanner) charge(n int) error {
	if s.cost += n; s.cost > maxReplyBytes {
		return fmt.Errorf("%w: a reply of more than %d bytes", errReply, maxReplyBytes)
	}
	return nil
}

// ended notes that an element has ended, and the lists of which it was the last.
func (s *replyScanner) ended() {
	for s.depth > 0 {
		if s.left[s.depth-1]--; s.left[s.depth-1] > 0 {
			return
		}
		s.depth--
	}
	s.cost = 0
}
