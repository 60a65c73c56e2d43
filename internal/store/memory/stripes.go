package memory

import (
	"context"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// entriesPerKey is how many log entries take as much memory as a counter.
	entriesPerKey = 4

	// sweepCounters is among how many counters of each shard expire looks for expired ones: a
	// few microseconds under its lock.
	sweepCounters = 256
)

// ahead is how many counters are fetched at a time: some more than a processor
// waits for at once.
const ahead = strategy.MaxLimits

// stripes are the shards of a store. The shard of a request is chosen by (namespace,
// identifier), so that one lock covers all its limits.
type stripes struct {
	now    func() strategy.Instant
	hash   hasher
	names  *namespaces
	shards []shard
	shift  int // an identity's shard is its hash's bits above shift

	logEntries    atomic.Int64 // the room of all shards' logs
	maxLogEntries int64        // beyond it a decision evicts logs
	settledLogs   int64        // beyond it Settle does
	random        *rand.Rand   // draws where Settle begins; nil: what all use

	losses    lossLog
	agreement agreement
}

// open makes s empty stripes, as o says, in which every option is set.
func (s *stripes) open(o *Options) {
	s.now, s.hash, s.names, s.losses.logger = o.Now, newHasher(), newNamespaces(), o.Logger
	s.shards = make([]shard, o.Shards)
	s.shift = 64 - bits.TrailingZeros(uint(o.Shards))
	oneRequest := int64(strategy.MaxLimits) << bits.Len64(uint64(2*o.MaxLogCount)) // with the charges of a log in debt
	s.maxLogEntries = max(entriesPerKey*int64(o.MaxKeys), oneRequest)
	s.settledLogs = s.maxLogEntries
	if o.Reproducible {
		s.hash, s.random = knownHasher(), rand.New(rand.NewPCG(0, 0)) //nolint:gosec // which is to be the same each time
		s.maxLogEntries = math.MaxInt64
	}
	for i := range s.shards {
		sh := &s.shards[i]
		if o.Reproducible {
			sh.random = rand.New(rand.NewPCG(1, uint64(i))) //nolint:gosec // likewise
		}
		sh.hash, sh.names, sh.logEntries, sh.losses = &s.hash, s.names, &s.logEntries, &s.losses
		sh.share = o.MaxKeys / o.Shards
		sh.init(sh.share + strategy.MaxLimits - 1) // as a request's own counters are not evicted for it
	}
}

// Decide decides each of requests at one reading of the clock. It sets no
// error.
func (s *stripes) Decide(_ context.Context, requests []store.Request, results []store.Result) {
	s.DecideAt(s.now(), requests, results)
}

// DecideAt is Decide at an instant that the caller says. Those of one shard must not go back.
func (s *stripes) DecideAt(now strategy.Instant, requests []store.Request, results []store.Result) {
	for len(requests) > 0 {
		n := 1
		switch {
		case len(requests[0].With) > 0:
			s.decideTogether(&requests[0], &results[0], now)
		case len(requests) == 1:
			s.decide(&requests[0], &results[0], now)
		default:
			n = s.decideApart(requests, results, now)
		}
		requests, results = requests[n:], results[n:]
	}
}

// DecidesTogether reports true.
func (s *stripes) DecidesTogether(*store.Request) bool { return true }

// decideApart decides the first of requests, each on its own, and returns how
// many: up to one with a With, and as many as have ahead counters.
//
// Most of a decision's time is spent waiting for memory, where the counters of
// many identifiers are. So those of all these requests are fetched before the
// first is decided: the processor waits for many at a time, as it can not
// across locks.
func (s *stripes) decideApart(requests []store.Request, results []store.Result, now strategy.Instant) (n int) {
	var keys [ahead]key
	var shards [ahead]*shard  // of each of keys
	var name string           // of the namespace that was hashed last: mostly all are of one
	var limit *strategy.Limit // that was hashed last: the same
	var namespace, ofLimit key
	used := 0
	for n < len(requests) && used+len(requests[n].Limits) <= ahead && len(requests[n].With) == 0 {
		r := &requests[n]
		if name == "" || name != r.Namespace {
			name, namespace = r.Namespace, s.hash.text(r.Namespace)
		}
		identity := s.hash.identityIn(namespace, r.Identifier)
		for i := range r.Limits {
			if l := &r.Limits[i]; l != limit {
				limit, ofLimit = l, s.hash.limit(l)
			}
			keys[used], shards[used] = s.hash.counter(identity, ofLimit), s.shard(identity)
			used++
		}
		n++
	}

	var slots [ahead]uint64
	for i, sh := range shards[:used] {
		slots[i] = sh.slot(keys[i])
	}
	for i, sh := range shards[:used] {
		sh.fetch(slots[i])
	}

	first := 0
	for i := range requests[:n] {
		last := first + len(requests[i].Limits)
		s.decideAt(shards[first], &requests[i], keys[first:last], &results[i], now)
		first = last
	}
	return n
}

// decideTogether decides a request and its With. It holds the locks of all
// their shards, which it takes in the order of the shards, as every other does.
func (s *stripes) decideTogether(r *store.Request, res *store.Result, now strategy.Instant) {
	var places []int
	r.All(func(r *store.Request) {
		places = append(places, int(s.hash.identity(r.Namespace, r.Identifier).hi>>s.shift))
	})
	locked := slices.Compact(slices.Sorted(slices.Values(places)))
	for _, place := range locked {
		s.shards[place].lock()
	}
	decide := func(dryRun bool) (refused bool) {
		res.All(r, func(r *store.Request, res *store.Result) {
			asked := *r
			asked.DryRun = r.DryRun || dryRun
			identity := s.hash.identity(r.Namespace, r.Identifier)
			keys := make([]key, len(r.Limits))
			for j := range r.Limits {
				keys[j] = s.hash.counter(identity, s.hash.limit(&r.Limits[j]))
			}
			res.Err = nil
			s.shard(identity).decide(&asked, keys, &res.Decision, now)
			refused = refused || res.Refused
		})
		return refused
	}
	if !decide(true) {
		decide(false)
	}
	for _, place := range locked {
		s.shards[place].unlock()
	}
	if s.logEntries.Load() > s.maxLogEntries {
		s.evictLogs(s.maxLogEntries, push{s.names.find(r.Namespace), now})
	}
}

// decide decides r.
func (s *stripes) decide(r *store.Request, res *store.Result, now strategy.Instant) {
	identity := s.hash.identity(r.Namespace, r.Identifier)
	if len(r.Limits) == 1 { // most have one, and need no room for many
		one := [1]key{s.hash.counter(identity, s.hash.limit(&r.Limits[0]))}
		s.decideAt(s.shard(identity), r, one[:], res, now)
		return
	}
	s.decideMany(identity, r, res, now)
}

func (s *stripes) decideMany(identity key, r *store.Request, res *store.Result, now strategy.Instant) {
	var keys [strategy.MaxLimits]key
	for i := range r.Limits {
		keys[i] = s.hash.counter(identity, s.hash.limit(&r.Limits[i]))
	}
	s.decideAt(s.shard(identity), r, keys[:len(r.Limits)], res, now)
}

// decideAt decides r, whose counters are known by keys in sh.
func (s *stripes) decideAt(sh *shard, r *store.Request, keys []key, res *store.Result, now strategy.Instant) {
	res.Err = nil
	sh.lock()
	sh.decide(r, keys, &res.Decision, now)
	sh.unlock()
	if s.logEntries.Load() > s.maxLogEntries {
		s.evictLogs(s.maxLogEntries, push{s.names.find(r.Namespace), now})
	}
}

// Settle evicts logs until they are within their bound, where decisions do not.
func (s *stripes) Settle(now strategy.Instant) {
	s.evictLogs(s.settledLogs, push{s.names.rest, now})
}

// evictLogs evicts counters with logs until the logs have at most that many entries.
func (s *stripes) evictLogs(most int64, by push) {
	for s.logEntries.Load() > most {
		if of := s.names.heaviest(); of == nil || !s.evictLogsOf(of, by) {
			return
		}
	}
}

// evictLogsOf evicts counters with logs of a namespace from one shard, and reports
// whether it found some. It looks in all shards for one that is not denied at present
// before it takes one that is.
func (s *stripes) evictLogsOf(of *namespace, by push) (found bool) {
	start := draw(s.random, len(s.shards))
	for _, shutToo := range []bool{false, true} {
		for i := range s.shards {
			sh := &s.shards[(start+i)%len(s.shards)]
			sh.lock()
			found = sh.evictLog(of, shutToo, by)
			sh.unlock()
			if found {
				return true
			}
		}
	}
	return false
}

// Favour gives each of namespaces a share of the store for itself, and takes that away
// from those that are not among them. A namespace that holds no more than its share
// loses no counter to another one. All that are not favoured share one share, and of
// these the first 64 are told apart.
func (s *stripes) Favour(namespaces []string) {
	s.names.favour(namespaces)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.lock()
		for j := range sh.holdings {
			sh.uses[j] = useOf(sh.holdings[j].owner, sh.uses[j].counters())
		}
		sh.unlock()
	}
}

// Reset forgets the counters of r.
func (s *stripes) Reset(_ context.Context, r *store.Request) error {
	identity := s.hash.identity(r.Namespace, r.Identifier)
	sh := s.shard(identity)
	sh.lock()
	defer sh.unlock()
	for i := range r.Limits {
		if n, found := sh.find(s.hash.counter(identity, s.hash.limit(&r.Limits[i]))); found {
			sh.remove(n)
		}
	}
	return nil
}

// Shards returns how many stripes there are.
func (s *stripes) Shards() int { return len(s.shards) }

// Place says in which shard an identity is: the highest bits of what it returns, as many as it
// takes to number all shards. In all stores that are Reproducible it is the same.
func (s *stripes) Place(namespace, identifier string) uint16 {
	return uint16(s.hash.identity(namespace, identifier).hi >> (64 - shardBits))
}

func (s *stripes) shard(identity key) *shard { return &s.shards[identity.hi>>s.shift] }

// expire drops expired counters, a few of each shard, and forgets namespaces without any.
func (s *stripes) expire() {
	now := s.now()
	forgotten := s.names.forget()
	for i := range s.shards {
		sh := &s.shards[i]
		sh.lock()
		sh.expire(sweepCounters, sweepCounters, nil, now)
		sh.unlock()
	}
	forgotten()
}
