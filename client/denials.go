package client

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxRemembered is how long a denial is repeated from memory: for so long a reset, or a
// refund, of another process may go unnoticed.
const maxRemembered = time.Second

// denialShards is how many stripes the memory has. It is a power of two.
const denialShards = 16

// denials are the identifiers that were denied a short while ago, with their answers. A
// denial stands until its RetryAfter: what others consume can only put that off. It says
// nothing of another cost, nor of other limits.
type denials struct {
	share  int // of the denials, for each shard
	start  time.Time
	seed   maphash.Seed
	shards [denialShards]denialShard
}

type denialShard struct {
	mu    sync.Mutex // protects the following
	known map[identity]*denial
	// changes counts what may have freed an identifier: what was asked before is not
	// remembered after.
	changes uint64
}

type identity struct{ namespace, identifier string }

// A denial is what a limiter was answered.
type denial struct {
	scope  *scope
	cost   uint64
	result Result
	until  time.Duration // since the start
	shown  time.Duration // as of when the statuses of result are
}

// fresh is how old the statuses of a denial may be when they are repeated: to make them anew
// for each call would be a quarter of what it costs.
const fresh = time.Millisecond

func newDenials(most int) *denials {
	return &denials{share: max(1, most/denialShards), start: time.Now(), seed: maphash.MakeSeed()}
}

func (d *denials) shard(id identity) *denialShard {
	return &d.shards[maphash.String(d.seed, id.identifier)%denialShards]
}

// A recollection is what remember needs to know of when a call was made.
type recollection struct {
	asked   time.Duration
	changes uint64
}

// recall returns the denial of a call in a scope that is known to stand.
func (d *denials) recall(in *scope, identifier string, cost uint64) (result Result, known bool, r recollection) {
	id := identity{in.namespace, identifier}
	now := time.Since(d.start)
	sh := d.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	of := sh.known[id]
	if of == nil || of.scope != in || of.cost != cost || now >= of.until {
		return Result{}, false, recollection{now, sh.changes}
	}
	return of.at(now), true, recollection{}
}

// at returns the denial as it is at now. The lock of its shard is held.
func (of *denial) at(now time.Duration) Result {
	if by := now - of.shown; by >= fresh {
		of.shown = now
		of.result.RetryAfter = older(of.result.RetryAfter, by)
		of.result.Statuses = slices.Clone(of.result.Statuses) // callers have the last ones
		for i := range of.result.Statuses {
			st := &of.result.Statuses[i]
			st.ResetAfter, st.RetryAfter = max(0, st.ResetAfter-by), older(st.RetryAfter, by)
		}
	}
	return of.result
}

// older returns what is left of a RetryAfter after age.
func older(retryAfter, age time.Duration) time.Duration {
	if retryAfter == Never {
		return Never
	}
	return max(0, retryAfter-age)
}

// remember keeps the denial that a call in a scope was answered. A denial that the daemon itself
// has from memory is not kept, lest it becomes older than maxRemembered: it does not say
// when it was decided.
func (d *denials) remember(in *scope, identifier string, cost uint64, result *Result, r recollection) {
	if result.Allowed || result.Reason != ReasonOverLimit || result.DecidedAt.IsZero() {
		return
	}
	wait := min(result.RetryAfter, maxRemembered)
	for i := range result.Statuses { // of several limits that denied, the first to change its answer
		if st := &result.Statuses[i]; !st.Allowed {
			wait = min(wait, st.RetryAfter)
		}
	}
	until := r.asked + wait
	now := time.Since(d.start)
	if now >= until {
		return
	}
	id := identity{in.namespace, strings.Clone(identifier)}
	sh := d.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.changes != r.changes {
		return
	}
	if sh.known == nil {
		sh.known = make(map[identity]*denial)
	}
	if _, there := sh.known[id]; !there && len(sh.known) >= d.share {
		sh.evict(now)
	}
	of := &denial{scope: in, cost: cost, result: *result, until: until, shown: r.asked}
	of.result.Remembered = true
	sh.known[id] = of
}

// tries is how many denials are looked at for one that is over, before one is dropped that
// stands.
const tries = 8

func (sh *denialShard) evict(now time.Duration) {
	n := 0
	for id, of := range sh.known { // in an order that differs each time
		if n++; now >= of.until || n == tries || n == len(sh.known) {
			delete(sh.known, id)
			return
		}
	}
}

// forget drops what is known of an identifier, which may have become free.
func (d *denials) forget(namespace, identifier string) {
	id := identity{namespace, identifier}
	sh := d.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.changes++
	delete(sh.known, id)
}
