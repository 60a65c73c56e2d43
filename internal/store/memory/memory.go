// Package memory is the store of counters in the process's own memory:
// striped, bounded, and nothing to install.
//
// The stripe is chosen by (namespace, identifier), so that one lock covers all
// limits of a request. A counter is known by a 128-bit hash under secrets drawn
// at random when the store is made, and not by its names: with ten million
// counters the chance that any two are one is below 1 in 10^24, and nobody
// who does not know the secrets can tell which would be.
//
// A snapshot keeps the counters over a restart: see Keep.
package memory

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// DefaultShards is far above the cores of any machine, so that two of
	// them rarely want one lock.
	DefaultShards = 256
	// DefaultMaxKeys keeps the store at about 90 MB, and logs at 64 MB more.
	DefaultMaxKeys = 1_000_000

	maxShards = 1 << shardBits
	// minShardKeys leaves an eviction something to choose from, whatever the
	// limits of the request that it makes room for.
	minShardKeys = evictSample
	// maxShardKeys leaves a bit of a counter's number (see ranking).
	maxShardKeys = 1<<31 - 1

	// entriesPerKey is how many log entries take as much memory as a counter.
	entriesPerKey = 4

	// Once in sweepInterval, each shard looks for expired counters among
	// sweepCounters of its own: a few microseconds under its lock.
	sweepInterval = time.Second
	sweepCounters = 256
)

// Options say how to make a Store. The zero Options are the defaults.
type Options struct {
	// Shards is how many stripes there are: a power of two. 0 is
	// DefaultShards, or fewer if they would hold fewer than minShardKeys each.
	Shards int
	// MaxKeys bounds the counters held, each shard having an equal share of
	// them. Beyond it, counters are evicted. 0 is DefaultMaxKeys.
	//
	// Logs of SLIDING_WINDOW_LOG counters may have four entries for each of
	// MaxKeys, as large as another counter, wherever they are. Beyond that,
	// counters with logs are evicted.
	MaxKeys int
	// MaxLogCount is the greatest count of a SLIDING_WINDOW_LOG that the store
	// is asked about: there is always room for the logs of one request. 0 is
	// strategy.DefaultMaxLogCount.
	MaxLogCount int64
	// Logger is told, once in a while, whom evictions set free. nil logs nothing.
	Logger *slog.Logger
	// Now is the clock. nil is the wall clock at the time the store is made,
	// carried on by the monotonic clock: it is not disturbed when the wall
	// clock is set.
	Now func() strategy.Instant
}

// A Store is a store.Store in memory. New makes it.
type Store struct {
	now    func() strategy.Instant
	hash   hasher
	names  *namespaces
	shards []shard
	shift  int // an identity's stripe is its hash's bits above shift

	logEntries    atomic.Int64 // the room of all shards' logs
	maxLogEntries int64

	agreement agreement
	kept      *keeper // nil: the counters end with the process

	logger  *slog.Logger
	reports [causes][pushers]lograte.Gate

	close  sync.Once
	closed chan struct{}
	swept  sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// New returns an empty store. The error says which option is wrong.
func New(o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("memory store: %w", err)
	}
	share := o.MaxKeys / o.Shards
	if o.Now == nil {
		start := time.Now()
		o.Now = func() strategy.Instant {
			return strategy.InstantOf(start) + strategy.Instant(time.Since(start)/time.Microsecond)
		}
	}
	s := &Store{
		now:    o.Now,
		hash:   newHasher(),
		names:  newNamespaces(),
		logger: o.Logger,
		shards: make([]shard, o.Shards),
		shift:  64 - bits.TrailingZeros(uint(o.Shards)),
		closed: make(chan struct{}),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxLogCount == 0 {
		o.MaxLogCount = strategy.DefaultMaxLogCount
	}
	oneRequest := int64(strategy.MaxLimits) << bits.Len64(uint64(2*o.MaxLogCount)) // with the charges of a log in debt
	s.maxLogEntries = max(entriesPerKey*int64(o.MaxKeys), oneRequest)
	for i := range s.shards {
		s.shards[i].store, s.shards[i].share = s, share
		s.shards[i].init(share + strategy.MaxLimits - 1) // as a request's own counters are not evicted for it
	}
	s.swept.Go(s.sweep)
	return s, nil
}

// Decide decides each of requests at one reading of the clock. It sets no
// error.
func (s *Store) Decide(_ context.Context, requests []store.Request, results []store.Result) {
	now := s.now()
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
func (s *Store) DecidesTogether(*store.Request) bool { return true }

// ahead is how many counters are fetched at a time: some more than a processor
// waits for at once.
const ahead = strategy.MaxLimits

// decideApart decides the first of requests, each on its own, and returns how
// many: up to one with a With, and as many as have ahead counters.
//
// Most of a decision's time is spent waiting for memory, where the counters of
// many identifiers are. So those of all these requests are fetched before the
// first is decided: the processor waits for many at a time, as it can not
// across locks.
func (s *Store) decideApart(requests []store.Request, results []store.Result, now strategy.Instant) (n int) {
	var keys [ahead]key
	var shards [ahead]*shard // of each of keys
	var name string          // of the namespace that was hashed last: mostly all are of one
	var namespace key
	used := 0
	for n < len(requests) && used+len(requests[n].Limits) <= ahead && len(requests[n].With) == 0 {
		r := &requests[n]
		if name == "" || name != r.Namespace {
			name, namespace = r.Namespace, s.hash.text(r.Namespace)
		}
		identity := s.hash.identityIn(namespace, r.Identifier)
		for i := range r.Limits {
			keys[used], shards[used] = s.hash.counter(identity, &r.Limits[i]), s.shard(identity)
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
func (s *Store) decideTogether(r *store.Request, res *store.Result, now strategy.Instant) {
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
				keys[j] = s.hash.counter(identity, &r.Limits[j])
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
		s.evictLogs(r.Namespace, now)
	}
}

// decide decides r.
func (s *Store) decide(r *store.Request, res *store.Result, now strategy.Instant) {
	identity := s.hash.identity(r.Namespace, r.Identifier)
	if len(r.Limits) == 1 { // most have one, and need no room for many
		one := [1]key{s.hash.counter(identity, &r.Limits[0])}
		s.decideAt(s.shard(identity), r, one[:], res, now)
		return
	}
	s.decideMany(identity, r, res, now)
}

func (s *Store) decideMany(identity key, r *store.Request, res *store.Result, now strategy.Instant) {
	var keys [strategy.MaxLimits]key
	for i := range r.Limits {
		keys[i] = s.hash.counter(identity, &r.Limits[i])
	}
	s.decideAt(s.shard(identity), r, keys[:len(r.Limits)], res, now)
}

// decideAt decides r, whose counters are known by keys in sh.
func (s *Store) decideAt(sh *shard, r *store.Request, keys []key, res *store.Result, now strategy.Instant) {
	res.Err = nil
	sh.lock()
	sh.decide(r, keys, &res.Decision, now)
	sh.unlock()
	if s.logEntries.Load() > s.maxLogEntries {
		s.evictLogs(r.Namespace, now)
	}
}

// evictLogs evicts counters with logs until the logs are within their bound. The
// namespace called name has needed the room.
func (s *Store) evictLogs(name string, now strategy.Instant) {
	by := push{owner: s.names.find(name), now: now}
	for s.logEntries.Load() > s.maxLogEntries {
		if of := s.names.heaviest(); of == nil || !s.evictLogsOf(of, by) {
			return
		}
	}
}

// evictLogsOf evicts counters with logs of a namespace from one shard, and reports
// whether it found some. It looks in all shards for one that is not denied at present
// before it takes one that is.
func (s *Store) evictLogsOf(of *namespace, by push) (found bool) {
	start := rand.IntN(len(s.shards))
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
func (s *Store) Favour(namespaces []string) {
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

// report logs whom an eviction has freed.
func (s *Store) report(l loss) {
	pusher := sameNamespace
	if l.of != l.by {
		pusher = otherNamespace
	}
	times := s.reports[l.cause][pusher].Pass(time.UnixMicro(int64(l.at)))
	if times == 0 {
		return
	}
	s.logger.Warn("the memory store is full and has forgotten callers that were over their limit: they start afresh; raise --memory-max-keys, or limit what callers cannot invent",
		"namespace", l.of.name, "for", l.by.name, "full", l.cause.String(), "times", times)
}

// Reset forgets the counters of r.
func (s *Store) Reset(_ context.Context, r *store.Request) error {
	identity := s.hash.identity(r.Namespace, r.Identifier)
	sh := s.shard(identity)
	sh.lock()
	defer sh.unlock()
	for i := range r.Limits {
		if n, found := sh.find(s.hash.counter(identity, &r.Limits[i])); found {
			sh.remove(n)
		}
	}
	return nil
}

// Health reports nil: memory does not fail.
func (s *Store) Health(context.Context) error { return nil }

// Close stops the sweeper, and takes the last snapshot if Keep has been called.
func (s *Store) Close() (err error) {
	s.close.Do(func() {
		close(s.closed)
		if s.kept != nil {
			err = s.kept.close()
		}
	})
	s.swept.Wait()
	return err
}

func (s *Store) shard(identity key) *shard { return &s.shards[identity.hi>>s.shift] }

// sweep drops expired counters, a few at a time, until the store is closed: so
// that memory is given back to other counters even where no new ones arrive.
func (s *Store) sweep() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.closed:
			return
		case <-tick.C:
		}
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
}
