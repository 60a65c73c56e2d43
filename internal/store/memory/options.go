package memory

import (
	"fmt"
	"log/slog"
	"math/bits"
	"time"

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
	// Reproducible has the store draw nothing at random and do nothing of itself, so that
	// it decides the same each time when it is asked the same: also by several goroutines,
	// if each asks for identities of shards of its own: see Place. Its secrets are no
	// secrets then. Logs are evicted by Settle alone, which its user calls now and then.
	Reproducible bool
}

// Check returns which option is wrong, if New would refuse one.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults returns o with all defaults, or which option is wrong.
func (o Options) withDefaults() (Options, error) {
	if o.MaxLogCount == 0 {
		o.MaxLogCount = strategy.DefaultMaxLogCount
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		start := time.Now()
		o.Now = func() strategy.Instant {
			return strategy.InstantOf(start) + strategy.Instant(time.Since(start)/time.Microsecond)
		}
	}
	if o.MaxKeys == 0 {
		o.MaxKeys = DefaultMaxKeys
	}
	if o.MaxKeys < 1 {
		return o, fmt.Errorf("at most %d keys: must be above 0, such as %d", o.MaxKeys, DefaultMaxKeys)
	}
	if o.Shards == 0 {
		o.Shards = DefaultShards
		for o.Shards > 1 && o.MaxKeys/o.Shards < minShardKeys {
			o.Shards /= 2
		}
	}
	if o.Shards < 1 || o.Shards > maxShards || bits.OnesCount(uint(o.Shards)) != 1 {
		return o, fmt.Errorf("%d shards: want a power of two from 1 to %d, such as %d", o.Shards, maxShards, DefaultShards)
	}
	share := o.MaxKeys / o.Shards
	if o.Shards > 1 && share < minShardKeys {
		return o, fmt.Errorf("at most %d keys are too few for %d shards, which should hold %d each:"+
			" allow %d keys or more, or have fewer shards", o.MaxKeys, o.Shards, minShardKeys, o.Shards*minShardKeys)
	}
	if share > maxShardKeys {
		return o, fmt.Errorf("at most %d keys are too many for %d shards, which hold up to %d each: have more shards", o.MaxKeys, o.Shards, maxShardKeys)
	}
	return o, nil
}
