package redis

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// lookMemoryEvery is the shortest time between two questions what a server does when its
// memory is full.
const lookMemoryEvery = time.Minute

// An evicts finds out whether servers drop keys when their memory is full: a counter that
// is dropped is a fresh limit, and nobody gets an error. It asks on new connections.
type evicts struct {
	log    *slog.Logger
	found  atomic.Bool  // whether the last server that was asked does
	asked  atomic.Int64 // when one was, in nanoseconds since the Unix epoch
	silent atomic.Bool  // whether a server has refused to say: it is not asked again
}

// look asks the server of a new connection, by next. An error means that the connection is
// of no use any more.
func (e *evicts) look(ctx context.Context, next redis.ProcessHook) error {
	now, asked := time.Now().UnixNano(), e.asked.Load()
	if e.silent.Load() || now-asked < int64(lookMemoryEvery) || !e.asked.CompareAndSwap(asked, now) {
		return nil
	}
	info := redis.NewStringCmd(ctx, "info", "memory")
	if err := next(ctx, info); isReply(err) {
		e.silent.Store(true)
		return nil
	} else if err != nil {
		return err
	}
	e.learn(info.Val())
	return nil
}

// learn reads what a server says of its memory.
func (e *evicts) learn(info string) {
	said := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && len(value) <= 64 {
			said[name] = value
		}
	}
	most, policy := said["maxmemory"], said["maxmemory_policy"]
	evicts := most != "" && most != "0" && policy != "" && policy != "noeviction"
	if was := e.found.Swap(evicts); evicts && !was {
		e.log.Warn("redis: the server drops keys when its memory is full, and a counter that is dropped is a fresh limit; set maxmemory-policy noeviction",
			"maxmemory_policy", policy, "maxmemory", most)
	}
}
