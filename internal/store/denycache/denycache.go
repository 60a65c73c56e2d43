// Package denycache remembers what a remote store has denied, and denies it
// again without asking. A limit that has denied until an instant denies until
// then whatever else happens, as consumption can only move that instant
// further away: so the answer is exact, and whoever hammers a limit that it is
// over costs the store next to nothing.
package denycache

import (
	"context"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// DefaultTTL is how long a Reset or a Refund by another process may go unnoticed.
	DefaultTTL = time.Second
	// DefaultMaxKeys is how many callers are usually over their limit at a time, and
	// far more.
	DefaultMaxKeys = 50_000
	// DefaultMaxBytes is room for DefaultMaxKeys identifiers with one limit and names of
	// usual lengths. With as much garbage, it is below 64 MB.
	DefaultMaxBytes = 30_000_000

	shards = 64
	// evictSample is how many denials a full shard looks at for one that is
	// over, before it drops any.
	evictSample = 8
)

// Options say how to make a Cache. The zero Options are the defaults.
type Options struct {
	// TTL is how long a denial is believed before one caller is sent to ask
	// again. 0 is DefaultTTL.
	TTL time.Duration
	// MaxKeys bounds the identifiers remembered. 0 is DefaultMaxKeys.
	MaxKeys int
	// MaxBytes bounds the memory of what is remembered: names may be long, and
	// limits many. 0 is DefaultMaxBytes.
	MaxBytes int
	// Now is a clock that never steps back. nil is the process's own.
	Now func() time.Duration
}

// A Cache is a store.Store in front of another. It remembers the last denial
// of each identifier, and answers a request that is the same but for being a
// dry run. When the denial is older than the TTL, one request is passed on to
// ask again while others are still answered; should the store fail to answer
// it, the denial stands.
//
// A Charge and a Refund always go to the store. They end the denial of their
// identifier: a Charge has moved its instant, and a Refund may free it.
//
// What a cached answer says to be left is as of when the store was last asked. When
// this process consumes some of it, the denial is dropped. What another process
// consumes shows after the TTL at most.
//
// Named limits that are sent with two rates at once are one counter, which
// drains at the rate of whoever consumes: so the other rate may bring forward
// the instant until which this one denies. A denial is dropped when this
// process consumes so. When another process does, or does while the denial is
// on its way here, it may stand for the TTL at most.
type Cache struct {
	store.Store
	ttl    time.Duration
	share  int // of MaxKeys, for each shard
	room   int // of MaxBytes, for each shard
	now    func() time.Duration
	seed   maphash.Seed
	shards [shards]shard
}

// New returns an empty cache in front of s, which it owns.
func New(s store.Store, o Options) *Cache {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.MaxKeys == 0 {
		o.MaxKeys = DefaultMaxKeys
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Now == nil {
		start := time.Now()
		o.Now = func() time.Duration { return time.Since(start) }
	}
	return &Cache{Store: s, ttl: o.TTL, share: max(1, o.MaxKeys/shards), room: o.MaxBytes / shards, now: o.Now, seed: maphash.MakeSeed()}
}

// An identity is who is denied.
type identity struct{ namespace, identifier string }

// A denial is a request that was denied.
type denial struct {
	identity
	bytes    int // of memory that it takes
	limits   []strategy.Limit
	cost     uint64
	mode     strategy.Mode // Take or Overdraw
	decision strategy.Decision
	asked    time.Duration // when the store was asked: the denial is no older than that
	until    time.Duration // when a limit that denied may allow
	askAgain time.Duration // when a caller is sent to ask again
}

// A shard is one stripe of the cache.
type shard struct {
	mu      sync.Mutex // protects the following
	denials map[identity]*denial
	bytes   int    // that denials takes
	resets  uint64 // how often one has begun or ended: what was asked before is not remembered after
	hits    uint64
}

// Decide answers from memory what it can, and has the store decide the rest.
func (c *Cache) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	now := c.now()
	open := make([]int, 0, len(requests)) // the indices that memory does not answer
	resets := make([]uint64, 0, len(requests))
	for i := range requests {
		results[i].Repeated = false
		known, seen := false, uint64(unknown)
		r := &requests[i]
		if r.Mode != strategy.Take || len(r.With) > 0 {
			r.All(c.beforeRefund)
		}
		if len(r.With) == 0 { // the store decides all that are decided together
			known, seen = c.answer(r, &results[i], now)
		}
		if !known {
			open, resets = append(open, i), append(resets, seen)
		}
	}
	store.DecideSome(ctx, c.Store, requests, results, open)
	for j, i := range open {
		beside := reports(&requests[i])
		results[i].All(&requests[i], func(r *store.Request, res *store.Result) {
			if beside && r.Mode == strategy.Take && !res.Allowed {
				return // what lets a report count once is not asked alone, and would push a denial out that is
			}
			c.learn(ctx, r, res, now, resets[j])
		})
	}
}

// reports reports whether a Charge or a Refund is decided together with r.
func reports(r *store.Request) bool {
	for i := range r.With {
		if m := r.With[i].Mode; m == strategy.Charge || m == strategy.Refund {
			return true
		}
	}
	return false
}

// beforeRefund forgets the denial of r's identifier, if r may give something back to
// it. What is asked until the store has done so is not remembered.
func (c *Cache) beforeRefund(r *store.Request) {
	if r.Mode == strategy.Refund && r.Changes() {
		c.forget(r)
	}
}

// unknown is more resets than a shard will ever have seen.
const unknown = math.MaxUint64

// answer sets res to a denial that is known to stand, and reports whether
// there is one; and how many resets the shard has seen.
func (c *Cache) answer(r *store.Request, res *store.Result, now time.Duration) (known bool, resets uint64) {
	sh := c.shard(r)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	d := sh.denials[identity{r.Namespace, r.Identifier}]
	if !d.answers(r, now) {
		return false, sh.resets
	}
	if now >= d.askAgain {
		d.askAgain = now + c.ttl // this caller asks; until it is back, others need not
		return false, sh.resets
	}
	sh.hits++
	d.repeat(res, now)
	return true, 0
}

// learn takes notice of what the store, asked at an instant, says of r.
func (c *Cache) learn(ctx context.Context, r *store.Request, res *store.Result, asked time.Duration, resets uint64) {
	sh := c.shard(r)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	id := identity{r.Namespace, r.Identifier}
	switch {
	case r.Mode == strategy.Refund || r.Mode == strategy.Charge:
		if r.Changes() { // also if it failed: it may have been done
			sh.resets++
			sh.drop(id)
		}
	case res.Err != nil:
		if d, now := sh.denials[id], c.now(); d.answers(r, now) {
			if d.asked < asked && store.CallerGone(ctx) != nil {
				d.askAgain = now // this caller was to ask, and left: so the next is
			}
			sh.hits++
			d.repeat(res, now)
		}
	case res.Allowed || r.Mode == strategy.Overdraw && !res.Refused:
		// It may have left less, and less to repeat; or have moved the instant until
		// which the denial stands.
		if d := sh.denials[id]; d != nil && r.Cost > 0 && (d.sameAs(r) || !r.DryRun && (r.Mode == strategy.Overdraw || d.sharesCounter(r))) {
			sh.drop(id)
		}
	case resets == sh.resets:
		sh.drop(id)
		if d := newDenial(r, res, asked, c.ttl); d.bytes <= c.room && d.until > asked {
			for now := c.now(); len(sh.denials) >= c.share || sh.bytes > c.room-d.bytes; {
				sh.evict(now)
			}
			if sh.denials == nil {
				sh.denials = map[identity]*denial{}
			}
			sh.denials[d.identity] = d
			sh.bytes += d.bytes
		}
	}
}

func newDenial(r *store.Request, res *store.Result, asked, ttl time.Duration) *denial {
	d := &denial{limits: slices.Clone(r.Limits), cost: r.Cost, mode: r.Mode, decision: res.Decision, asked: asked, until: forever, askAgain: asked + ttl}
	d.decision.Statuses = slices.Clone(res.Statuses)
	d.bytes = d.keepNames(r) + fixedBytes +
		cap(d.limits)*int(unsafe.Sizeof(strategy.Limit{})) + cap(d.decision.Statuses)*int(unsafe.Sizeof(strategy.Status{}))
	for i := range res.Statuses {
		// The store's clock may have been a part of a microsecond further.
		if wait := d.stands(i); wait != strategy.Never {
			d.until = min(d.until, asked+min(wait, forever-asked)-time.Microsecond)
		}
	}
	return d
}

// stands returns for how long the answer of the i-th limit stays the same, or Never if
// it does not end. That of a limit that allowed may not count, as another denied.
func (d *denial) stands(i int) time.Duration {
	l, st := &d.limits[i], &d.decision.Statuses[i]
	switch {
	case st.Allowed:
		return strategy.Never
	case d.mode == strategy.Take || d.cost <= 1 || l.Capacity == 0:
		return st.RetryAfter
	case l.Strategy == strategy.FixedWindow:
		return st.ResetAfter
	default: // an Overdraw is answered otherwise from the first unit on that is left
		return 0
	}
}

// keepNames gives d the names of r, in memory of their own, and returns how much that
// takes: the names of r may be parts of a large message.
func (d *denial) keepNames(r *store.Request) (bytes int) {
	size := len(r.Namespace) + len(r.Identifier)
	for i := range r.Limits {
		size += len(r.Limits[i].Name)
	}
	var text strings.Builder
	text.Grow(size)
	keep := func(name string) string {
		from := text.Len()
		text.WriteString(name)
		return text.String()[from:]
	}
	d.identity = identity{keep(r.Namespace), keep(r.Identifier)}
	for i := range d.limits {
		d.limits[i].Name = keep(r.Limits[i].Name)
	}
	return text.Cap()
}

// fixedBytes is what each denial takes beside its names, limits and statuses: itself,
// its place in the map, which is mostly half full, and what the allocator adds.
const fixedBytes = int(unsafe.Sizeof(denial{})+2*(unsafe.Sizeof(identity{})+unsafe.Sizeof((*denial)(nil)))) + 32

// forever is later than any instant of the clock.
const forever = time.Duration(1<<63 - 1)

// drop forgets the denial of id, if there is one.
func (sh *shard) drop(id identity) {
	if d := sh.denials[id]; d != nil {
		sh.bytes -= d.bytes
		delete(sh.denials, id)
	}
}

// evict drops one denial: one that is over, if a few tries find it. There must be one.
func (sh *shard) evict(now time.Duration) {
	tries := 0
	for id, d := range sh.denials { // in an order that differs each time
		if tries++; now >= d.until || tries == evictSample {
			sh.drop(id)
			return
		}
	}
	for id := range sh.denials {
		sh.drop(id)
		return
	}
}

// answers reports whether d, which may be nil, is the answer to r at now.
func (d *denial) answers(r *store.Request, now time.Duration) bool {
	return d != nil && now < d.until && d.sameAs(r)
}

// sameAs reports whether d is of the limits and the cost of r.
func (d *denial) sameAs(r *store.Request) bool {
	return d.cost == r.Cost && d.mode == r.Mode && slices.Equal(d.limits, r.Limits)
}

// sharesCounter reports whether r has one of d's counters.
func (d *denial) sharesCounter(r *store.Request) bool {
	return slices.ContainsFunc(r.Limits, func(l strategy.Limit) bool {
		return slices.ContainsFunc(d.limits, func(of strategy.Limit) bool { return l.SameCounter(&of) })
	})
}

// repeat sets res to the denial as it is at now.
func (d *denial) repeat(res *store.Result, now time.Duration) {
	age := (now - d.asked).Truncate(time.Microsecond)
	res.Err, res.Repeated = nil, true
	res.Decision = strategy.Decision{Refused: true, RetryAfter: older(d.decision.RetryAfter, age), Statuses: append(res.Statuses[:0], d.decision.Statuses...)}
	for i := range res.Statuses {
		st := &res.Statuses[i]
		st.ResetAfter = max(0, st.ResetAfter-age)
		st.RetryAfter = older(st.RetryAfter, age)
	}
}

// older returns what is left of retryAfter after age.
func older(retryAfter, age time.Duration) time.Duration {
	if retryAfter == strategy.Never {
		return strategy.Never
	}
	return max(0, retryAfter-age)
}

// Reset forgets the denial of r's identifier, before and after the store does
// its part: what is asked in between is not remembered.
func (c *Cache) Reset(ctx context.Context, r *store.Request) error {
	c.forget(r)
	defer c.forget(r)
	return c.Store.Reset(ctx, r)
}

func (c *Cache) forget(r *store.Request) {
	sh := c.shard(r)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.resets++
	sh.drop(identity{r.Namespace, r.Identifier})
}

func (c *Cache) shard(r *store.Request) *shard {
	return &c.shards[maphash.Comparable(c.seed, identity{r.Namespace, r.Identifier})%shards]
}
