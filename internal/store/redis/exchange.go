package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// An exchange is one request, with those that are decided together with it, on its
// way through Redis.
type exchange struct {
	question
	request *store.Request
	result  *store.Result
	pending bool // whether it is to be sent
	windows int  // how often it was asked with a window of the calendar that is not the store's

	dialer   *dialer   // of the client
	shipment *shipment // which it goes with
	index    int       // which question of that it is
	reply    *reply    // nil if there is none
	cut      error     // why it did not come in time
}

// A composer makes the exchanges of requests.
type composer struct {
	dialer *dialer // of the client
	prefix string  // of all keys
}

// newExchanges appends to exchanges those of a request: one, or one for each request of its With
// if these are decided apart.
func (m composer) newExchanges(exchanges []exchange, r *store.Request, res *store.Result, apart bool) []exchange {
	if !apart || r.Alone() {
		return append(exchanges, m.newExchange(r, res))
	}
	res.All(r, func(r *store.Request, res *store.Result) {
		alone := *r
		alone.With = nil
		exchanges = append(exchanges, m.newExchange(&alone, res))
	})
	return exchanges
}

// newExchange returns the exchange of a request, to set res.
func (m composer) newExchange(r *store.Request, res *store.Result) exchange {
	c := exchange{request: r, result: res, dialer: m.dialer}
	c.together = !r.Alone()
	keys := 0
	c.size = sizeOfConsumed
	eachLimit(r, func(r *store.Request, l *strategy.Limit) {
		keys++
		c.size += sizeOf(r, l)
	})
	if keys == 0 {
		return c
	}
	c.pending = true
	// The request and then the keys are parts of one text.
	text, ends := make([]byte, 0, 256), make([]int, 0, 4) // room for most
	text = appendRun(text, r, keys, func(int) strategy.Instant { return strategy.InstantOf(time.Now()) })
	start := len(text)
	eachLimit(r, func(r *store.Request, l *strategy.Limit) {
		text = appendCounterKey(append(text, m.prefix...), r.Namespace, r.Identifier, l)
		ends = append(ends, len(text))
	})
	whole := string(text)
	c.run, c.keys = whole[:start], make([]any, keys)
	for i, end := range ends {
		c.keys[i] = whole[start:end]
		start = end
	}
	return c
}

// key returns the first key.
func (c *exchange) key() string { return c.keys[0].(string) }

// again makes c pending again if its reply says that the script did not run,
// and may run soon. It reports whether to wait before.
//
// TRYAGAIN is the answer while a slot moves, if some of the keys are already
// on the other node; READONLY, if the server has become a replica, which was
// said of the first write, and so before anything was consumed.
func (c *exchange) again() (wait bool) {
	if c.reply == nil {
		return false
	}
	switch err := c.reply.err; {
	case err == nil:
		if c.reply.packed[0] == elsewhere && c.windows < maxWindows {
			c.moveWindows()
		}
	case redis.HasErrorPrefix(err, "NOSCRIPT"), refusesHash(err):
		c.pending, c.load = true, true
	case errors.Is(err, errApart):
		c.pending = true
	case errors.Is(err, errAgain), redis.IsTryAgainError(err), redis.IsReadOnlyError(err):
		c.pending = true
		return true
	}
	return false
}

// maxWindows is how often an exchange is asked again because of its windows. The second time
// it has those of the store's clock, and the third is for a clock that then enters the
// next ones.
const maxWindows = 3

// moveWindows makes c pending again, with the windows that its reply shows to be those of
// the store's clock. The script has changed nothing.
func (c *exchange) moveWindows() {
	at, packed := make([]strategy.Instant, 0, len(c.keys)), c.reply.packed[sizeOfConsumed:]
	eachLimit(c.request, func(r *store.Request, l *strategy.Limit) {
		size := sizeOf(r, l)
		state, _ := parseState(packed[:size]) // if it is none, the next reply will not do either
		packed = packed[size:]
		state.Settle(l, c.reply.now, 0)
		at = append(at, max(c.reply.now, state.Last))
	})
	c.run = string(appendRun(nil, c.request, len(c.keys), func(key int) strategy.Instant { return at[key] }))
	c.windows++
	c.pending = true
}

// decide sets the result of c to the answer that the reply implies.
func (c *exchange) decide() {
	with := c.result.With
	err := c.answer(c.request, c.result)
	c.result.All(c.request, func(_ *store.Request, res *store.Result) { res.Err = err })
	if len(c.request.With) == 0 { // it may be of a request whose With is decided apart
		c.result.With = with
	}
}

func (c *exchange) answer(r *store.Request, res *store.Result) error {
	if c.cut != nil {
		if why := c.dialer.failure(); why != nil {
			return fmt.Errorf("redis: no reply in time: %w; connecting last failed: %w", c.cut, why)
		}
		return fmt.Errorf("redis: no reply in time: %w", c.cut)
	}
	var states string
	var now strategy.Instant
	var consumed strategy.Consumption
	if c.reply != nil {
		if err := c.reply.err; errors.Is(err, os.ErrDeadlineExceeded) { // that of the last caller in the pipeline
			return fmt.Errorf("redis: %w: %w", context.DeadlineExceeded, quote.Error(err))
		} else if err != nil && redis.IsTryAgainError(err) {
			return fmt.Errorf("redis: %w: %w", store.ErrCounters, quote.Error(err))
		} else if err != nil {
			return fmt.Errorf("redis: %w%s", quote.Error(err), advice(err))
		}
		switch c.reply.packed[0] {
		case foreign:
			return fmt.Errorf("redis: %w: %w: one of the %d keys from %s on holds what is not ratelimitd's", store.ErrCounters, errForeign, len(c.keys), quote.Cut(c.key()))
		case damaged:
			return fmt.Errorf("redis: %w: %w: one of the %d keys from %s on, which starts again", store.ErrCounters, errDamaged, len(c.keys), quote.Cut(c.key()))
		case elsewhere:
			return fmt.Errorf("redis: %w: the clock of the server leaves one window of the calendar after the other", store.ErrCounters)
		}
		now, consumed, states = c.reply.now, strategy.Consumption(c.reply.packed[0]), c.reply.packed[sizeOfConsumed:]
	}
	if by, ok := decideByStates(r, res, states, now); (by != consumed || !ok) && c.reply != nil {
		return fmt.Errorf("redis: %w: script and strategy disagree on the %d keys from %s on, at %d: %s", store.ErrCounters, len(c.keys), quote.Cut(c.key()), now, quote.Cut(states))
	}
	return nil
}

// advice returns what an operator can do about an error reply, or "".
func advice(err error) string {
	_, moved := redis.IsMovedError(err)
	switch {
	case errors.Is(err, io.EOF):
		return " (the server has closed the connection; if it always does, find out whether its port is for TLS, and write rediss://)"
	case !isReply(err):
		return ""
	case redis.IsAuthError(err) && strings.Contains(err.Error(), "sentinel"):
		return " (check --redis-sentinel-user and --redis-sentinel-password)"
	case redis.IsAuthError(err):
		return " (check --redis-user and --redis-password, or what is in their place)"
	case strings.Contains(err.Error(), "DB index"):
		return " (check the database in --redis-url, or --redis-database)"
	case strings.Contains(err.Error(), "cluster support disabled"):
		return " (it is no cluster: leave out --redis-cluster, and give one --redis-url)"
	case redis.IsPermissionError(err), strings.Contains(err.Error(), "user executing the script can't"):
		return " (give the user of --redis-user the permissions that docs/redis.md lists)"
	case moved:
		return " (it is a node of a cluster: set --redis-cluster)"
	}
	return ""
}
