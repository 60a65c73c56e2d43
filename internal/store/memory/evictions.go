package memory

import (
	"log/slog"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/lograte"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A cause is what was full when a live counter was evicted.
type cause int

const (
	forKeys cause = iota // the shard had as many counters as its share allows
	forLogs              // the logs of all shards took as much memory as they may
	causes
)

func (c cause) String() string { return [causes]string{"keys", "logs"}[c] }

// What an evicted counter was: see ranking.
const (
	wasOpen = iota // its caller gets less than half of the limit back
	wasUsed        // open, but at least half was used
	wasShut        // its caller was denied, and is free now
	states
)

// Whose new counter an evicted one had to leave for.
const (
	sameNamespace = iota
	otherNamespace
	pushers
)

// evictions counts evictions of live counters.
type evictions [causes][states][pushers]uint64

// A loss is a caller that an eviction set free.
type loss struct {
	of, by *namespace // whose counter it was, and who needed the room
	cause  cause
	at     strategy.Instant
}

// A lossLog logs losses, and not one of a kind after the other.
type lossLog struct {
	logger *slog.Logger
	gates  [causes][pushers]lograte.Gate
}

// report logs whom an eviction has freed.
func (g *lossLog) report(l loss) {
	pusher := sameNamespace
	if l.of != l.by {
		pusher = otherNamespace
	}
	times := g.gates[l.cause][pusher].Pass(time.UnixMicro(int64(l.at)))
	if times == 0 {
		return
	}
	g.logger.Warn("the memory store is full and has forgotten callers that were over their limit: they start afresh; raise --memory-max-keys, or limit what callers cannot invent",
		"namespace", l.of.name, "for", l.by.name, "full", l.cause.String(), "times", times)
}
