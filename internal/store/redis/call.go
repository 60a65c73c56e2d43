package redis

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
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

	pending  bool       // whether it is to be sent
	load     bool       // whether the server may not know the script
	reply    *redis.Cmd // nil if there is none
	shipment *shipment  // which the reply comes with
	cut      error      // why the reply did not come in time
}

// newCall returns the call of a run. Its arguments are what decide.lua says.
func newCall(hash string, run []store.Request) call {
	c := call{requests: len(run), args: append(make([]any, 0, 5+5*len(run[0].Limits)), "evalsha", hash, 0)}
	eachLimit(run, func(r *store.Request, l *strategy.Limit) {
		c.args = append(c.args, counterKey(r.Namespace, r.Identifier, l))
		c.keys++
	})
	if c.keys == 0 {
		return call{requests: len(run)}
	}
	c.pending = true
	c.args[2] = c.keys
	c.args = append(c.args, scriptCost(&run[0]), consumes(run))
	eachLimit(run, func(_ *store.Request, l *strategy.Limit) {
		c.args = append(c.args, uint8(l.Strategy), l.Rate.Count, int64(l.Rate.Period/time.Microsecond), l.Capacity)
	})
	switch {
	case len(run) > 1:
		eachLimit(run, func(r *store.Request, _ *strategy.Limit) { c.args = append(c.args, scriptCost(r)) })
		if c.keys == 1 { // the script would take it for shadows
			c.args = append(c.args, "")
		}
	case slices.ContainsFunc(run[0].Limits, func(l strategy.Limit) bool { return l.Shadow }):
		c.args = append(c.args, shadows(run[0].Limits))
	}
	return c
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

// scriptCost returns the cost of r as the script can take it.
func scriptCost(r *store.Request) uint64 { return min(r.Cost, rate.MaxCount+1) }

// shadows returns a digit for each limit that has a counter: 1 if it is in
// shadow mode, and otherwise 0.
func shadows(limits []strategy.Limit) string {
	digits := make([]byte, 0, strategy.MaxLimits)
	for i := range limits {
		switch l := &limits[i]; {
		case l.Rate.IsUnlimited():
		case l.Shadow:
			digits = append(digits, '1')
		default:
			digits = append(digits, '0')
		}
	}
	return string(digits)
}

// consumes returns 1 if run consumes when it is allowed, and otherwise 0.
func consumes(run []store.Request) int {
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
func (c *call) command(ctx context.Context, load bool, source string) *redis.Cmd {
	args := c.args
	if load {
		args = append([]any{"eval", source}, args[2:]...)
	}
	reply := redis.NewCmd(ctx, args...)
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
	var states []any
	var now strategy.Instant
	var consumed strategy.Consumed
	if c.reply != nil {
		reply, err := c.reply.Slice()
		if errors.Is(err, os.ErrDeadlineExceeded) { // that of the last caller in the pipeline
			return fmt.Errorf("redis: %w: %w", context.DeadlineExceeded, err)
		} else if err != nil && ofCounters(err) {
			return fmt.Errorf("redis: %w: %w", store.ErrCounters, err)
		} else if err != nil {
			return fmt.Errorf("redis: %w", err)
		}
		if len(reply) < 2 {
			return fmt.Errorf("redis: %w: script replied %v", store.ErrCounters, reply)
		}
		micros, _ := reply[0].(int64)
		from, _ := reply[1].(int64)
		now, consumed, states = strategy.Instant(micros), strategy.Consumed(from), reply[2:]
	}
	if decideRun(run, results, states, now) != consumed && c.reply != nil {
		return fmt.Errorf("redis: %w: script and strategy disagree on %v at %d: %v", store.ErrCounters, c.args[2:], now, states)
	}
	return nil
}

// decideRun decides a run by the states from before, as texts in order, and
// returns from which limits it consumed.
func decideRun(run []store.Request, results []store.Result, texts []any, now strategy.Instant) strategy.Consumed {
	decide := func(dryRun bool) (consumed strategy.Consumed, allowed bool) {
		texts, allowed := texts, true
		for i := range run {
			r := &run[i]
			var states [strategy.MaxLimits]strategy.State
			for j := range r.Limits {
				if len(texts) > 0 && !r.Limits[j].Rate.IsUnlimited() {
					states[j], texts = parseState(texts[0]), texts[1:]
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
