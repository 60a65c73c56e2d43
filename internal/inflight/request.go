package inflight

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"
)

// A request over HTTP holds its body.
type request struct {
	bytes atomic.Int64
	bound *Bound
	peer  string
	end   func()
}

// readTime is how long a body counts as one of the readers: who is slow makes little work.
const readTime = 100 * time.Millisecond

// Read waits until the body of a request over HTTP may be read, client by client. Until then
// it is in the buffers of the kernel. The error is that of ctx.
func (b *Bound) Read(ctx context.Context, from netip.Prefix) (done func(), err error) {
	turn, err := b.reading.Take(ctx, from)
	if err != nil {
		return nil, err
	}
	slow := time.AfterFunc(readTime, turn.End)
	return func() {
		if slow.Stop() {
			turn.End()
		}
	}, nil
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

// Work counts n bytes that it takes to decide a request over HTTP, until worked is called. If
// it returns nil, they are too many, and the request is to be refused. What is being decided
// cannot be ended, so nobody else is ended for it: all of it may take half as much as the
// bound, beside it. One request alone always fits.
func (b *Bound) Work(n int64, peer string) (worked func()) {
	most := int64(b.o.Bytes / 2)
	n = min(n, most)
	if b.working.Add(n) <= most {
		return func() { b.working.Add(-n) }
	}
	b.working.Add(-n)
	b.shed.Add(1)
	if requests := b.refused.Pass(time.Now()); requests > 0 {
		b.o.Logger.Warn("the requests over HTTP that are being decided take as many bytes as they may, so others are refused; send smaller batches or fewer at a time, or raise --max-bytes-in-flight and the memory of the daemon",
			"peer", peer, "bytes", n, "max_bytes", most, "requests", requests)
	}
	return nil
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
