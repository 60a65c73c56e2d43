// Package redis is the store of counters in Redis: one script, and so one
// round trip, a decision, by the clock of the Redis server. Daemons that share
// a Redis share the counters.
package redis

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Store is a store.Store in Redis. New makes it.
type Store struct {
	client  redis.UniversalClient
	script  script
	timeout time.Duration

	close    sync.Once
	closeErr error
}

var _ store.Store = (*Store)(nil)

// New returns a store that connects when it is first used. The error says
// which option is wrong.
func New(o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("redis store: %w", err)
	}
	options, err := o.universal()
	if err != nil {
		return nil, fmt.Errorf("redis store: %w", err)
	}
	// The client would print a line for each failed dial. What matters of it
	// is in the errors it returns.
	logging.Disable()
	return &Store{
		client:  redis.NewUniversalClient(options),
		script:  newScript(serverClock),
		timeout: o.Timeout,
	}, nil
}

// Decide sends all requests in one pipeline.
func (s *Store) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()

	calls := make([]call, len(requests))
	pipe := s.client.Pipeline()
	for i := range requests {
		if calls[i] = newCall(&requests[i]); len(calls[i].keys) > 0 {
			calls[i].reply = pipe.EvalSha(ctx, s.script.hash, calls[i].keys, calls[i].args...)
		}
	}
	_, _ = pipe.Exec(ctx) // each reply has its error

	// A server that does not know the script has not run it.
	pipe = s.client.Pipeline()
	for i := range calls {
		if reply := calls[i].reply; reply != nil && redis.HasErrorPrefix(reply.Err(), "NOSCRIPT") {
			calls[i].reply = pipe.Eval(ctx, s.script.source, calls[i].keys, calls[i].args...)
		}
	}
	if pipe.Len() > 0 {
		_, _ = pipe.Exec(ctx)
	}

	for i := range calls {
		results[i].Err = calls[i].decide(&requests[i], &results[i].Decision)
	}
}

// A call is one request on its way through Redis.
type call struct {
	keys  []string
	args  []any
	reply *redis.Cmd // nil if there is nothing to ask
}

func newCall(r *store.Request) call {
	c := call{
		keys: make([]string, 0, len(r.Limits)),
		args: append(make([]any, 0, 2+4*len(r.Limits)), min(r.Cost, rate.MaxCount+1), consumes(r)),
	}
	for i := range r.Limits {
		l := &r.Limits[i]
		if l.Rate.IsUnlimited() {
			continue
		}
		c.keys = append(c.keys, string(appendKey(nil, r.Namespace, r.Identifier, l)))
		c.args = append(c.args, uint8(l.Strategy), l.Rate.Count, int64(l.Rate.Period/time.Microsecond), l.Capacity)
	}
	return c
}

// consumes returns 1 if r consumes when it is allowed, and otherwise 0.
func consumes(r *store.Request) int {
	if r.Cost > 0 && !r.DryRun {
		return 1
	}
	return 0
}

// decide sets d to the answer that the reply implies.
func (c *call) decide(r *store.Request, d *strategy.Decision) error {
	var states [strategy.MaxLimits]strategy.State
	var now strategy.Instant
	var consumed bool
	if c.reply != nil {
		reply, err := c.reply.Slice()
		if err != nil {
			return fmt.Errorf("redis: %w", err)
		}
		if len(reply) < 2 {
			return fmt.Errorf("redis: script replied %v", reply)
		}
		micros, _ := reply[0].(int64)
		now, consumed = strategy.Instant(micros), reply[1] == int64(1)
		next := reply[2:]
		for i := range r.Limits {
			if r.Limits[i].Rate.IsUnlimited() {
				continue
			}
			if len(next) > 0 {
				states[i], next = parseState(next[0]), next[1:]
			}
		}
	}
	if d.Decide(r.Limits, states[:len(r.Limits)], r.Cost, now, r.DryRun) != consumed && c.reply != nil {
		return fmt.Errorf("redis: script and strategy disagree on %v at %d: %+v", c.args, now, states[:len(r.Limits)])
	}
	return nil
}

// parseState reads a state as decide.lua writes it. What is not one is that of
// a counter wholly unused, to the script too.
func parseState(reply any) strategy.State {
	text, _ := reply.(string)
	last, rest, _ := strings.Cut(text, " ")
	used, part, _ := strings.Cut(rest, " ")
	var n [3]int64
	for i, field := range [3]string{last, used, part} {
		var err error
		if n[i], err = strconv.ParseInt(field, 10, 64); err != nil || n[i] < 0 {
			return strategy.State{}
		}
	}
	return strategy.State{Last: strategy.Instant(n[0]), Used: uint32(min(n[1], math.MaxUint32)), Part: n[2]}
}

// Reset deletes the counters of r, in one command.
func (s *Store) Reset(ctx context.Context, r *store.Request) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if c := newCall(r); len(c.keys) > 0 {
		if err := s.client.Del(ctx, c.keys...).Err(); err != nil {
			return fmt.Errorf("redis: %w", err)
		}
	}
	return nil
}

// Health reports whether the server answers.
func (s *Store) Health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

// Close closes all connections.
func (s *Store) Close() error {
	s.close.Do(func() { s.closeErr = s.client.Close() })
	return s.closeErr
}
