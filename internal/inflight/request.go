package inflight

import (
	"context"
	"sync/atomic"
)

// A request over HTTP holds its body.
type request struct {
	bytes atomic.Int64
	bound *Bound
	peer  string
	end   func()
}

// Hold counts the bytes of a request over HTTP until it is released. If it returns nil,
// they are too many. end has to end the request: it is called if others need its bytes.
func (b *Bound) Hold(n int64, peer string, end func()) (release func()) {
	r := &request{bound: b, peer: peer, end: end}
	r.bytes.Store(n)
	b.enter(r)
	if b.add(n) {
		b.relieve(r, 0)
	}
	if r.bytes.Load() == 0 {
		b.leave(r)
		return nil
	}
	return func() {
		b.bytes.Add(-r.bytes.Swap(0))
		b.leave(r)
	}
}

func (r *request) holding() int64 { return r.bytes.Load() }

func (r *request) from() string { return r.peer }

// endLate implements holder: package http has deadlines of its own.
func (r *request) endLate(uint32) {}

func (r *request) shed(uint32) bool {
	n := r.bytes.Swap(0)
	r.bound.bytes.Add(-n)
	if n > 0 {
		r.end()
	}
	return n > 0
}

type boundKey struct{}

// NewContext returns a context in which requests over HTTP find b.
func NewContext(ctx context.Context, b *Bound) context.Context {
	return context.WithValue(ctx, boundKey{}, b)
}

// FromContext returns the Bound of a request over HTTP, or nil.
func FromContext(ctx context.Context) *Bound {
	b, _ := ctx.Value(boundKey{}).(*Bound)
	return b
}
