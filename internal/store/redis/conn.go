package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
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

// dialer returns what opens connections, with TLS unless secure is nil.
// An address without a host, as in the redirects of a cluster that does not know its
// hosts, is one of host.
func (o Options) dialer(secure *tls.Config, host string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	plain := &net.Dialer{
		Timeout: o.DialTimeout,
		// Find a server that is gone for good well before an idle connection to it is
		// needed.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	dial := plain.DialContext
	if secure != nil {
		dial = (&tls.Dialer{NetDialer: plain, Config: secure}).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, ":") {
			addr = net.JoinHostPort(host, addr[1:])
		}
		ctx, cancel := context.WithTimeout(ctx, o.DialTimeout) // of the handshake too
		defer cancel()
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if s, ok := c.(syscall.Conn); ok { // the client looks whether the server has closed it
			return &plainConn{boundedConn{Conn: c}, s}, nil
		}
		return &boundedConn{Conn: c}, nil
	}
}

// A boundedConn is a connection that fails when a reply is larger than it may be.
type boundedConn struct {
	net.Conn
	replies replyScanner
}

// A plainConn is a boundedConn without TLS.
type plainConn struct {
	boundedConn
	syscall.Conn
}

// Read implements net.Conn. What breaks a bound is not returned.
func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if broken := c.replies.scan(p[:n]); broken != nil {
		_ = c.Close()
		return 0, broken
	}
	return n, err
}

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
