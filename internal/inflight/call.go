package inflight

import (
	"context"
	"slices"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/peer"
)

// A Call is a call on a Conn, for those who handle it. A nil Call is one that nothing is
// counted for.
type Call struct {
	conn *Conn
	id   uint32
}

// Begin returns the Call that begins with a context, or the zero Call if nothing is counted for
// it. It reports false if there is no room for it: then the server has to refuse it. The server
// calls this in the goroutine that reads, before the next frame is read: see grpc.InTapHandle.
//
// With endIfLate, what is counted ends if its message does not arrive in time, as those of
// streams do. It costs less than a deadline of its context.
func Begin(ctx context.Context, endIfLate bool) (begun Call, ok bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Call{}, true
	}
	from, ok := p.Addr.(*address)
	if !ok {
		return Call{}, true
	}
	c := from.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.in.header
	if held := c.calls[id]; held != nil {
		held.endIfLate = endIfLate
		return Call{c, id}, true
	}
	// To refuse it costs less than to end it.
	c.ending = slices.DeleteFunc(c.ending, func(e http2.StreamError) bool { return e.StreamID == id })
	c.pressed.Store(len(c.ending) > 0)
	return Call{}, false
}

type callKey struct{}

// NewCallContext returns a context with a Call in it.
func NewCallContext(ctx context.Context, c Call) context.Context {
	if c.conn == nil {
		return ctx
	}
	return context.WithValue(ctx, callKey{}, &c)
}

// CallFrom returns the Call of a context, or nil.
func CallFrom(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// Decoded has a call no longer hold a message of n bytes, as it is decoded.
func (c *Call) Decoded(n int) {
	if c == nil {
		return
	}
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	if held := c.conn.calls[c.id]; held != nil {
		c.conn.addLocked(held, -min(int64(n)+messageBytes+held.spare, held.bytes))
		held.spare = 0
	}
}

// Work counts n bytes that it takes to decide what a call asks, until Worked: also if the
// call ends before, as whoever decides is not interrupted. It reports whether to begin.
func (c *Call) Work(n int) bool {
	if c == nil {
		return true
	}
	if !c.goesOn() {
		return false
	}
	c.conn.bytes.Add(int64(n))
	if !c.conn.bound.add(int64(n)) {
		return true
	}
	c.conn.bound.relieve(c.conn, c.id)
	if c.goesOn() {
		return true
	}
	c.Worked(n)
	return false
}

// Worked undoes Work.
func (c *Call) Worked(n int) {
	if c != nil {
		c.conn.bytes.Add(-int64(n))
		c.conn.bound.add(-int64(n))
	}
}

// goesOn reports whether neither side has ended the call.
func (c *Call) goesOn() bool {
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	return c.conn.calls[c.id] != nil
}

// Reply has a call hold a reply of n bytes until that is written.
func (c *Call) Reply(n int) {
	if c == nil {
		return
	}
	const prefix = 5
	over := false
	c.conn.mu.Lock()
	if held := c.conn.calls[c.id]; held != nil {
		if held.unsent == 0 {
			held.moved = c.conn.bound.now.Load()
		}
		held.unsent += int64(n) + prefix
		over = c.conn.addLocked(held, int64(n)+prefix)
	}
	c.conn.mu.Unlock()
	if over {
		c.conn.bound.relieve(c.conn, c.id)
	}
}
