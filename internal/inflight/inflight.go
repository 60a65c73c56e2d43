// Package inflight bounds what all calls together hold of a daemon's memory: messages that
// are arriving or not decoded yet, replies that their clients do not read, and what a call
// takes by itself.
//
// gRPC has no such bound. It buffers what arrives before any hook of a server is called,
// and keeps replies until the connection ends. So a Conn below gRPC follows the frames of
// HTTP/2 in both directions.
//
// When the bound is reached, a call of the client that holds most is ended: the one that holds
// most, on that of its connections that holds most. A client is an address. So whoever holds
// little is never ended for somebody who holds more, on however many connections.
package inflight

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

const (
	// callBytes is what a call takes beside its messages: goroutines, buffers and headers.
	// It is measured.
	callBytes = 16 << 10
	// messageBytes is what a message takes beside its bytes.
	messageBytes = 64
	// ticks is how many times in the time that a message has the calls are looked at.
	ticks = 8
	// littleBytes is what a connection may hold that goes on when nothing can be ended. It
	// is 64 small calls.
	littleBytes = 1 << 20
	// slack is the part of the bound that such connections may take beyond it.
	slack = 8
	// looks is for how many times the answer to who holds most is taken to be still right. To
	// find out takes as long as there are holders, and a client that sends more than there is
	// room for has it asked with all that it sends.
	looks = 64
	// readers is how many requests over HTTP bring a long body at a time. Each makes some
	// goroutine run for a moment, and whatever takes as short waits for all of them.
	readers = 32
)

// Options say how to make a Bound. All are required.
type Options struct {
	Bytes        int           // that calls may hold
	MessageBytes int           // of the longest message
	Wait         time.Duration // for a message that has begun, or for a reply to be read
	Logger       *slog.Logger
}

// A Bound bounds the bytes that calls hold. New makes it. It is safe for concurrent use.
type Bound struct {
	o     Options
	bytes atomic.Int64
	now   atomic.Uint32 // in ticks
	gate  lograte.Gate

	reading *turns.Turns // see Read
	working atomic.Int64 // bytes of Work
	refused lograte.Gate // of its refusals

	shed, lateMessages, lateReplies atomic.Uint64

	mu      sync.Mutex // protects the following. A holder's own mutex is locked after it
	holders map[holder]*client
	clients map[netip.Prefix]*client
	worst   struct { // of the last look, if it was who asked
		client *client
		bytes  int64 // that the holder has
		looks  int   // for how many more times this is taken to be so
	}
}

// A client is what is known of one while anything is held for it.
type client struct {
	address netip.Prefix
	holders int

	// Of the last whole look at who holds most.
	bytes   int64
	endable bool // whether anything of it can be ended
}

// A holder is who holds bytes: a connection, or a request over HTTP.
type holder interface {
	holding() int64
	// shed ends the call that the bytes are for, or the one that holds most if there is
	// no such call. It reports whether there was one.
	shed(call uint32) bool
	// endLate ends what has waited for too long at now, in ticks.
	endLate(now uint32)
	// from returns where it is from: an address with a port.
	from() string
}

// New returns a Bound.
func New(o Options) *Bound {
	return &Bound{o: o, reading: turns.NewOf(readers), holders: map[holder]*client{}, clients: map[netip.Prefix]*client{}}
}

// Watch ends calls that wait for too long, until stop is closed.
func (b *Bound) Watch(stop <-chan struct{}) {
	ticker := time.NewTicker(max(b.o.Wait/ticks, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			b.tick()
		}
	}
}

// tick moves the clock on.
func (b *Bound) tick() {
	now := b.now.Add(1)
	b.mu.Lock()
	holders := slices.Collect(maps.Keys(b.holders))
	b.mu.Unlock()
	for _, h := range holders {
		h.endLate(now)
	}
}

// add counts n more bytes, and reports whether they are too many.
func (b *Bound) add(n int64) (over bool) { return b.bytes.Add(n) > int64(b.o.Bytes) }

// relieve ends calls until the bound is kept again. asking is who has added bytes, for a
// call of his. It reports whether it is the client of asking that holds most.
//
// What is being decided cannot be ended, and is soon done. If there is nothing else left
// to end, a connection that holds little may go beyond the bound, as far as slack.
func (b *Bound) relieve(asking holder, call uint32) (own bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	deciding := map[holder]bool{} // who holds nothing that can be ended
	for b.bytes.Load() > int64(b.o.Bytes) {
		worst, most := b.knownLocked(asking, deciding)
		own = own || b.holders[worst] == b.holders[asking]
		of := uint32(0)
		if worst == asking {
			if most <= littleBytes && b.bytes.Load() <= int64(b.o.Bytes+b.o.Bytes/slack) {
				return own
			}
			of = call
		}
		if !worst.shed(of) {
			if worst == asking {
				return own
			}
			deciding[worst] = true
			continue
		}
		b.shed.Add(1)
		if n := b.gate.Pass(time.Now()); n > 0 {
			b.o.Logger.Warn("calls hold as many bytes as they may, and the one that holds most is ended; look at its client, or raise --max-bytes-in-flight and the memory of the daemon",
				"peer", worst.from(), "held_bytes", most, "max_bytes_in_flight", b.o.Bytes, "calls", n)
		}
	}
	return own
}

// knownLocked is worstLocked, without a look if asking is as bad as the one that it has found
// shortly before.
func (b *Bound) knownLocked(asking holder, deciding map[holder]bool) (worst holder, most int64) {
	w := &b.worst
	if n := asking.holding(); w.looks > 0 && w.client != nil && w.client == b.holders[asking] && n >= w.bytes && !deciding[asking] {
		w.looks--
		return asking, n
	}
	worst, most = b.worstLocked(asking, deciding)
	w.client, w.bytes, w.looks = b.holders[asking], most, 0
	if worst == asking {
		w.looks = looks
	}
	return worst, most
}

// worstLocked returns who holds most, of the client that holds most, and how much; but for
// those of which nothing can be ended. Of equals it is asking, and his client: else two large
// messages would end each other. The mutex must be held.
func (b *Bound) worstLocked(asking holder, deciding map[holder]bool) (worst holder, most int64) {
	for _, c := range b.clients {
		c.bytes, c.endable = 0, false
	}
	for h, c := range b.holders {
		c.bytes += h.holding()
		c.endable = c.endable || !deciding[h]
	}
	of := b.holders[asking] // nil: it has left
	for _, c := range b.clients {
		if c.endable && (of == nil || !of.endable || c.bytes > of.bytes) {
			of = c
		}
	}
	worst, most = asking, asking.holding()
	if of != b.holders[asking] {
		most = -1
	}
	for h, c := range b.holders {
		if n := h.holding(); c == of && n > most && !deciding[h] {
			worst, most = h, n
		}
	}
	return worst, most
}

// enter has h count as a holder.
func (b *Bound) enter(h holder) {
	address := ipaddr.ClientAt(h.from())
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holders[h] != nil {
		return
	}
	c := b.clients[address]
	if c == nil {
		c = &client{address: address}
		b.clients[address] = c
	}
	c.holders++
	b.holders[h] = c
}

// leave undoes enter.
func (b *Bound) leave(h holder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.holders[h]
	if c == nil {
		return
	}
	delete(b.holders, h)
	if c.holders--; c.holders == 0 {
		delete(b.clients, c.address)
	}
}
