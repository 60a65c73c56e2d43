package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A call is one request, or a run of such as are decided together, on its way
// through Redis.
type call struct {
	requests int
	keys     int
	args     []any // of an EVALSHA; none if there is nothing to ask

	pending  bool             // whether it is to be sent
	load     bool             // whether the server may not know the script
	reply    *redis.StringCmd // nil if there is none
	shipment *shipment        // which the reply comes with
	cut      error            // why the reply did not come in time
}

// newCall returns the call of a run. Its arguments are what decide.lua says.
func newCall(hash string, run []store.Request) call {
	c := call{requests: len(run)}
	eachLimit(run, func(*store.Request, *strategy.Limit) { c.keys++ })
	if c.keys == 0 {
		return c
	}
	c.pending = true
	c.args = make([]any, 3+2*c.keys)
	c.args[0], c.args[1], c.args[2] = "evalsha", hash, c.keys

	// The keys, and then the limits, are parts of one text.
	parts, ends := make([]byte, 0, 256), make([]int, 0, 8) // room for most
	eachLimit(run, func(r *store.Request, l *strategy.Limit) {
		parts = appendCounterKey(parts, r.Namespace, r.Identifier, l)
		ends = append(ends, len(parts))
	})
	consume := consumes(run)
	eachLimit(run, func(r *store.Request, l *strategy.Limit) {
		parts = appendLimit(parts, l, r.Cost, consume)
		ends = append(ends, len(parts))
	})
	text, start := string(parts), 0
	for i, end := range ends {
		c.args[3+i] = text[start:end]
		start = end
	}
	return c
}

// appendLimit appends l as the script reads it.
func appendLimit(b []byte, l *strategy.Limit, cost uint64, consume byte) []byte {
	shadow := byte(0)
	if l.Shadow {
		shadow = 1
	}
	b = append(b, byte(l.Strategy), shadow, consume)
	for _, n := range [...]float64{
		float64(min(cost, rate.MaxCount+1)), float64(l.Rate.Count), float64(l.Rate.Period / time.Microsecond), float64(l.Capacity),
	} {
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(n))
	}
	return b
}

// eachLimit calls f for each limit of a run that has a counter, in order.
func eachLimit(run []store.Request, f func(*store.Request, *strategy.Limit)) {
	for i := range run {
		for j := range run[i].Limits {
			if l := &run[i].Limits[j]; !l.Rate.IsUnlimited() {
				f(&run[i], l)
			}
		}
	}
}

// consumes returns 1 if run consumes when it is allowed, and otherwise 0.
func consumes(run []store.Request) byte {
	for i := range run {
		if run[i].Cost > 0 && !run[i].DryRun {
			return 1
		}
	}
	return 0
}

// key returns the first key.
func (c *call) key() string { return c.args[3].(string) }

// command returns what to send, with the script's source if it has to be
// loaded. The arguments are never written to again once they have been sent.
func (c *call) command(ctx context.Context, load bool, source string) *redis.StringCmd {
	args := c.args
	if load {
		args = append([]any{"eval", source}, args[2:]...)
	}
	reply := redis.NewStringCmd(ctx, args...)
	reply.SetFirstKeyPos(3)
	return reply
}

// again makes c pending again if its reply says that the script did not run,
// and may run soon. It reports whether to wait before.
//
// TRYAGAIN is the answer while a slot moves, if some of the keys are already
// on the other node; READONLY, if the server has become a replica, which was
// said of the first write, and so before anything was consumed.
func (c *call) again() (wait bool) {
	if c.reply == nil || c.reply.Err() == nil {
		return false
	}
	switch err := c.reply.Err(); {
	case redis.HasErrorPrefix(err, "NOSCRIPT"):
		c.pending, c.load = true, true
	case redis.IsTryAgainError(err), redis.IsReadOnlyError(err):
		c.pending = true
		return true
	}
	return false
}

// decide sets results to the answers to run that the reply implies.
func (c *call) decide(run []store.Request, results []store.Result) {
	err := c.answer(run, results)
	for i := range results {
		results[i].Err = err
	}
}

func (c *call) answer(run []store.Request, results []store.Result) error {
	if c.cut != nil {
		return fmt.Errorf("redis: no reply in time: %w", c.cut)
	}
	var states string
	var now strategy.Instant
	var consumed strategy.Consumed
	if c.reply != nil {
		reply, err := c.reply.Result()
		if errors.Is(err, os.ErrDeadlineExceeded) { // that of the last caller in the pipeline
			return fmt.Errorf("redis: %w: %w", context.DeadlineExceeded, err)
		} else if err != nil && ofCounters(err) {
			return fmt.Errorf("redis: %w: %w", store.ErrCounters, err)
		} else if err != nil {
			return fmt.Errorf("redis: %w", err)
		}
		if len(reply) != sizeOfHead+c.keys*sizeOfState {
			return fmt.Errorf("redis: %w: script replied %q", store.ErrCounters, reply)
		}
		now, consumed, states = strategy.Instant(double(reply)), strategy.Consumed(reply[sizeOfHead-1]), reply[sizeOfHead:]
	}
	if decideRun(run, results, states, now) != consumed && c.reply != nil {
		return fmt.Errorf("redis: %w: script and strategy disagree on %q at %d: %q", store.ErrCounters, c.args[2:], now, states)
	}
	return nil
}

// decideRun decides a run by the states from before, in order, and returns from
// which limits it consumed.
func decideRun(run []store.Request, results []store.Result, packed string, now strategy.Instant) strategy.Consumed {
	decide := func(dryRun bool) (consumed strategy.Consumed, allowed bool) {
		packed, allowed := packed, true
		for i := range run {
			r := &run[i]
			var states [strategy.MaxLimits]strategy.State
			for j := range r.Limits {
				if len(packed) > 0 && !r.Limits[j].Rate.IsUnlimited() {
					states[j], packed = parseState(packed[:sizeOfState]), packed[sizeOfState:]
				}
			}
			from := results[i].Decide(r.Limits, states[:len(r.Limits)], r.Cost, now, r.DryRun || dryRun)
			consumed, allowed = max(consumed, from), allowed && results[i].Allowed
		}
		return consumed, allowed
	}
	if len(run) > 1 {
		if _, allowed := decide(true); !allowed {
			return strategy.ConsumedNone
		}
	}
	consumed, _ := decide(false)
	return consumed
}

// ofCounters reports whether err, which Redis replied, is about the keys of one
// call: a key that holds something else, or keys that are being moved. (Not
// all versions begin with the code when a script meets the error.)
func ofCounters(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && (strings.Contains(reply.Error(), "WRONGTYPE ") || redis.IsTryAgainError(err))
}

// The sizes of what decide.lua packs.
const (
	sizeOfHead  = 9
	sizeOfState = 24
)

// parseState reads a state as decide.lua packs it. What is none is that of a
// counter wholly unused, to the script too.
func parseState(packed string) strategy.State {
	if len(packed) != sizeOfState {
		return strategy.State{}
	}
	last, used, part := double(packed), double(packed[8:]), double(packed[16:])
	if last < 0 || used < 0 || part < 0 || !(last+used+part < 1<<55) {
		return strategy.State{}
	}
	return strategy.State{Last: strategy.Instant(last), Used: uint32(min(used, math.MaxUint32)), Part: int64(part)}
}

// double returns the double that packed begins with.
func double(packed string) float64 {
	return math.Float64frombits(binary.BigEndian.Uint64([]byte(packed[:8])))
}
