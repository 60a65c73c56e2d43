package plainhttp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// turnRequests are answered before others go first: a connection may always have more.
	turnRequests = 64
	// spareTime is the part of a timeout that its deadline may be late: so it is moved
	// seldom, and not for each request.
	spareTime = 8
)

// A route is what the connections of a Server share.
type route struct {
	*http.Server             // of all else
	path         string      // of plain requests
	draining     atomic.Bool // whether each connection is to end after the request under way
}

// A conn is a connection that has had nothing but plain requests.
type conn struct {
	net.Conn
	route *route
	ctx   context.Context // of its requests

	buf      []byte
	have     int   // bytes of buf that were read
	err      error // that of the next Read, if it is known
	request  request
	response response

	now                   time.Time // when the last request was complete
	readUntil, writeUntil time.Time // its deadlines

	mu    sync.Mutex // held while a deadline is set, but in serve for the next request; protects the following
	begun bool       // whether a part of a request has come
}

func newConn(ctx context.Context, r *route, raw net.Conn) *conn {
	c := &conn{Conn: raw, route: r, buf: make([]byte, bufferBytes), now: time.Now()}
	c.ctx = context.WithValue(context.WithValue(ctx, http.ServerContextKey, r.Server), http.LocalAddrContextKey, raw.LocalAddr())
	c.request.init(r.path, raw.RemoteAddr().String())
	c.response.to, c.response.header, c.response.draining = raw, http.Header{}, &r.draining
	return c
}

// serve answers plain requests. If something else comes, it returns the connection as if
// nothing was read since. Otherwise it closes the connection at the end.
func (c *conn) serve() (rest net.Conn) {
	defer func() {
		p := recover()
		if err, _ := p.(error); p != nil && !errors.Is(err, http.ErrAbortHandler) {
			c.route.ErrorLog.Printf("http: panic serving %v: %v\n%s", c.request.RemoteAddr, p, debug.Stack())
		}
		if rest == nil {
			_ = c.Close()
		}
	}()
	c.readUntil = c.now.Add(c.route.ReadHeaderTimeout)
	_ = c.SetReadDeadline(c.readUntil) // it fails on a connection that is closed
	for n := 1; ; n++ {
		switch c.receive() {
		case nothing:
			return nil
		case other:
			return &begunConn{c.Conn, c.request.withoutBreaks(c.buf[:c.have]), c.err}
		default:
		}
		if !c.answer() || c.route.draining.Load() {
			return nil
		}
		c.waitLonger()
		if n%turnRequests == 0 {
			runtime.Gosched()
		}
	}
}

// waitLonger sets the deadline for the next request to begin.
func (c *conn) waitLonger() {
	idle := c.route.IdleTimeout
	if c.begun {
		c.mu.Lock()
		c.begun = false
		c.mu.Unlock()
		c.readUntil = time.Time{}
	}
	if c.readUntil.Sub(c.now) < idle {
		c.readUntil = c.now.Add(idle + idle/spareTime)
		_ = c.SetReadDeadline(c.readUntil)
	}
}

// receive reads until the buffer begins with a whole request, or with something else. It
// returns nothing if no more comes.
func (c *conn) receive() found {
	var since time.Time // when the request began
	for {
		is := nothing
		if c.have > 0 {
			is = c.request.find(c.buf[:c.have])
		}
		switch {
		case is == whole || is == other:
			return is
		case is == nothing && c.route.draining.Load(): // after the deadline was set: see wake
			return nothing
		case is == nothing:
		case is == short:
			since = c.begin(since, c.route.ReadTimeout)
		case since.IsZero():
			since = c.begin(since, c.route.ReadHeaderTimeout)
		}
		n, err := c.Read(c.buf[c.have:])
		c.have += n
		switch {
		case n > 0 || err == nil:
		case is == nothing:
			return nothing
		default: // net/http knows what to answer
			c.err = err
			return other
		}
	}
}

// begin gives a request of which a part has come the time for more. It returns since when:
// the zero Time is now, or the begin of the connection.
func (c *conn) begin(since time.Time, most time.Duration) time.Time {
	switch {
	case !since.IsZero():
	case c.request.others:
		since = time.Now()
	default:
		since = c.now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = true
	_ = c.SetReadDeadline(since.Add(most))
	return since
}

// wake ends c if it waits for a request. The server must be draining.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun {
		_ = c.SetReadDeadline(past)
	}
}

// answer answers the request that the buffer begins with, and removes it. It reports
// whether there may be another.
func (c *conn) answer() (more bool) {
	c.now = time.Now()
	c.response.now = c.now
	if most := c.route.WriteTimeout; c.writeUntil.Sub(c.now) < most {
		c.writeUntil = c.now.Add(most + most/spareTime)
		_ = c.SetWriteDeadline(c.writeUntil)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.route.Handler.ServeHTTP(&c.response, c.request.WithContext(ctx))
	if c.response.chunked { // the handler may have set another deadline
		c.writeUntil = time.Time{}
	}
	more = c.response.finish()
	c.have = copy(c.buf, c.buf[c.request.size:c.have])
	c.request.size = 0
	c.request.others = true
	return more
}

// A begunConn is a connection from which something was read already.
type begunConn struct {
	net.Conn
	read []byte // and not yet read again
	err  error  // what came then, if it did
}

// Read implements net.Conn.
func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.read) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		return c.Conn.Read(p)
	}
	n := copy(p, c.read)
	if c.read = c.read[n:]; len(c.read) == 0 {
		c.read = nil // nor is its memory kept
	}
	return n, nil
}

// past is a deadline for what is to end at once.
var past = time.Unix(1, 0)
