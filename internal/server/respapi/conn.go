package respapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/auth"
)

const (
	// idleBytes is the buffer of a connection that receives little, as most do.
	idleBytes = 4 << 10
	// writeTimeout is how long a client may take to read what was replied. (It is that
	// of the HTTP port.)
	writeTimeout = 30 * time.Second
	// handshakeTimeout is how long a TLS handshake may take.
	handshakeTimeout = 10 * time.Second
)

// A conn is a connection. One goroutine answers it.
type conn struct {
	net.Conn          // with TLS, if there is any: for the goroutine alone
	raw      net.Conn // without
	o        *Options
	draining *atomic.Bool // whether the server is stopping
	id       int64
	client   netip.Prefix // the address of who has connected

	in       []byte // received and not answered yet; its memory is used again
	little   int    // how many reads in a row had little
	full     bool   // whether the last read had all that there was room for
	readBy   time.Time
	writeBy  time.Time
	begun    time.Time // when the command began that is not all there; zero: there is none
	protocol int       // 2 or 3, of RESP

	// Who asks.
	base        context.Context // without the caller
	ctx         context.Context // with the caller; nil: nobody knows who asks
	token       string          // that of AUTH
	certificate *x509.Certificate
	directory   *auth.Directory // that ctx is of
}

// handshake makes TLS of c, if the server has it.
func (c *conn) handshake() (ok bool) {
	if c.o.TLS == nil {
		return true
	}
	secure := tls.Server(c.Conn, c.o.TLS)
	ctx, cancel := context.WithTimeout(c.base, handshakeTimeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		if !errors.Is(err, io.EOF) { // or else it went away, as probes of ports do
			c.o.HandshakeFailed(c.RemoteAddr().String(), err.Error())
		}
		return false
	}
	c.Conn = secure
	if state := secure.ConnectionState(); len(state.VerifiedChains) > 0 {
		c.certificate = state.VerifiedChains[0][0]
	}
	return true
}

// receive waits until more has been received.
func (c *conn) receive() (ok bool) {
	switch {
	case len(c.in) == 0 && cap(c.in) > idleBytes && c.little > manyReads:
		c.in = make([]byte, 0, idleBytes)
	case len(c.in) == cap(c.in) || len(c.in) == 0 && cap(c.in) < maxCommandBytes && c.little < 0:
		c.in = append(make([]byte, 0, maxCommandBytes), c.in...)
	}
	if !c.setReadDeadline() {
		return false
	}
	n, _ := c.Read(c.in[len(c.in):cap(c.in)])
	c.full = n == cap(c.in)-len(c.in)
	if c.little++; n >= idleBytes || c.full {
		c.little = -1 // there is more, or nearly
	}
	c.in = c.in[:len(c.in)+n]
	return n > 0
}

// manyReads is after how many reads of little a connection has the small buffer again.
const manyReads = 16

// setReadDeadline sets until when something has to come: the rest of a command that has
// begun, or the next one. A deadline that is about right stays, as each costs a timer.
// It reports whether to wait at all.
func (c *conn) setReadDeadline() (ok bool) {
	bounds, now := &c.o.Bounds, time.Now()
	by := now.Add(bounds.ConnectionIdle)
	about := bounds.ConnectionIdle / 8
	if len(c.in) == 0 {
		c.begun = time.Time{}
	} else {
		if c.begun.IsZero() {
			c.begun = now
		}
		by, about = c.begun.Add(bounds.MessageTimeout), 0
	}
	if early := by.Sub(c.readBy); early > about || early < 0 {
		c.readBy = by
		_ = c.raw.SetReadDeadline(by)
	}
	return !c.draining.Load() // after it: wake sets the deadline again
}

// wake ends a wait for more, for the server to stop.
func (c *conn) wake() { _ = c.raw.SetReadDeadline(time.Unix(1, 0)) }

// write sends replies.
func (c *conn) write(replies []byte) error {
	if now := time.Now(); c.writeBy.Sub(now) < writeTimeout/2 { // as with reads
		c.writeBy = now.Add(writeTimeout)
		_ = c.raw.SetWriteDeadline(c.writeBy)
	}
	_, err := c.Write(replies)
	return err
}

// caller returns the context of what c asks, with who asks in it. The error is an
// *auth.Refusal.
func (c *conn) caller() (context.Context, error) {
	gate := c.o.Gate
	if gate == nil {
		return c.base, nil
	}
	if inForce := gate.InForce(); c.ctx == nil || c.directory != inForce {
		ctx, err := gate.Admit(c.base, c.token, c.certificate)
		if err != nil {
			c.ctx = nil
			return nil, err
		}
		c.ctx, c.directory = ctx, inForce
	}
	return c.ctx, nil
}

// login makes the caller the one that a token belongs to. If it is nobody's, the caller
// stays who it was.
func (c *conn) login(token string) error {
	gate := c.o.Gate
	if gate == nil {
		return errNoPasswords
	}
	inForce := gate.InForce()
	ctx, err := gate.Admit(c.base, token, nil)
	if err != nil {
		return err
	}
	c.ctx, c.directory, c.token = ctx, inForce, token
	return nil
}

// logout makes the caller the one that the certificate belongs to, or nobody.
func (c *conn) logout() { c.ctx, c.directory, c.token = nil, nil, "" }
