package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A call is one request, with those that are decided together with it, on its
// way through Redis.
type call struct {
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

// A question is what a call asks Redis: nothing, if it has no keys. Nothing
// that it refers to is written to again.
type question struct {
	keys     []any  // strings
	run      string // the request, and its With, as the script reads it
	size     int    // how many bytes the script replies
	load     bool   // whether the server may not know the script
	together bool   // whether it has a With of other identifiers
}

// A reply is that to a question.
type reply struct {
	now    strategy.Instant
	packed string // from which limits it consumed, and the states before
	err    error
}

// newCalls appends to calls those of a request: one, or one for each request of its With
// if these are decided apart.
func (s *Store) newCalls(calls []call, r *store.Request, res *store.Result, apart bool) []call {
	if !apart || r.Alone() {
		return append(calls, s.newCall(r, res))
	}
	res.All(r, func(r *store.Request, res *store.Result) {
		alone := *r
		alone.With = nil
		calls = append(calls, s.newCall(&alone, res))
	})
	return calls
}

// newCall returns the call of a request, to set res.
func (s *Store) newCall(r *store.Request, res *store.Result) call {
	c := call{request: r, result: res, dialer: s.dialer}
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
		text = appendCounterKey(append(text, s.prefix...), r.Namespace, r.Identifier, l)
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

// appendRun appends r, which has so many keys, as the script reads it. at is asked for an
// instant in the window of each key whose limit follows the calendar.
func appendRun(b []byte, r *store.Request, keys int, at func(key int) strategy.Instant) []byte {
	consume, isQuickRun := consumes(r), quick(r)
	key := 0
	eachLimit(r, func(r *store.Request, l *strategy.Limit) {
		ends := byte(0)
		if key == keys-1 {
			ends = 1
		}
		b = appendLimit(append(b, ends), r, l, consume)
		if isQuickRun {
			limit := b[len(b)-sizeOfTake:]
			limit[1], limit[2] = isQuick, byte(keys)
		}
		if l.OnCalendar() {
			start, end := l.Window(at(key))
			b = appendDouble(appendDouble(b, float64(start)), float64(end))
		}
		key++
	})
	return b
}

// quick reports whether the script can decide r in less time, because it takes from numeric
// counters alone.
func quick(r *store.Request) bool {
	if len(r.With) > 0 || r.Mode != strategy.Take || !r.Changes() {
		return false
	}
	for i := range r.Limits {
		if l := &r.Limits[i]; l.Shadow || !l.Rate.IsUnlimited() && !numeric(l) {
			return false
		}
	}
	return true
}

// sizeOfTake is how many bytes appendRun appends for a limit of a Take without a calendar.
const sizeOfTake = 4 + 4*8

// The numbers that the script knows other fixed windows by.
const (
	onCalendar = 7 // one that follows the calendar
	isNumeric  = 8 // see numeric
	isQuick    = 9 // a numeric one in a run that is quick
)

// appendLimit appends l, a limit of r, as the script reads it, but for its window.
func appendLimit(b []byte, r *store.Request, l *strategy.Limit, consume byte) []byte {
	shadow := byte(0)
	if l.Shadow {
		shadow = 1
	}
	algorithm := byte(l.Strategy)
	switch {
	case l.OnCalendar():
		algorithm = onCalendar
	case numeric(l):
		algorithm = isNumeric
	}
	b = append(b, algorithm, shadow, consume|byte(r.Mode)<<1)
	most := uint64(rate.MaxCount + 1)
	if r.Mode != strategy.Take {
		most = strategy.MaxUnits
	}
	for _, n := range [...]float64{
		float64(min(r.Cost, most)), float64(l.Rate.Count), float64(l.Rate.Period / time.Microsecond), float64(l.Capacity),
	} {
		b = appendDouble(b, n)
	}
	if r.Mode != strategy.Take {
		b = appendDouble(appendDouble(b, float64(l.Ceiling())), float64(r.ConsumedAt))
	}
	return b
}

func appendDouble(b []byte, n float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(n))
}

// eachLimit calls f for each limit of a request and its With that has a
// counter, in order.
func eachLimit(r *store.Request, f func(*store.Request, *strategy.Limit)) {
	r.All(func(r *store.Request) {
		for i := range r.Limits {
			if l := &r.Limits[i]; !l.Rate.IsUnlimited() {
				f(r, l)
			}
		}
	})
}

// consumes returns 1 if r or its With consumes when it is allowed, and
// otherwise 0.
func consumes(r *store.Request) (consume byte) {
	r.All(func(r *store.Request) {
		if r.Changes() {
			consume = 1
		}
	})
	return consume
}

// key returns the first key.
func (c *call) key() string { return c.keys[0].(string) }

// command returns what asks questions, with the script's source if a server may
// not know it. With routed, the questions are about one identifier, and the first key is
// the same for whatever is asked about it: a proxy that sends a command to the server of
// its first key, whatever it makes of the braces in keys, finds all counters of the
// identifier on one server.
func (s script) command(ctx context.Context, questions []question, load, routed bool) *redis.StringCmd {
	keys, size := 0, 0
	for i := range questions {
		keys += len(questions[i].keys)
		size += len(questions[i].run)
		load = load || questions[i].load
	}
	args := make([]any, 3, 6+keys)
	if routed {
		args = append(args, routeOf(questions[0].keys[0].(string)))
		keys++
	}
	args[0], args[1], args[2] = "evalsha", s.hash, keys
	if load {
		args[0], args[1] = "eval", s.source
	}
	runs := make([]byte, 0, size)
	for i := range questions {
		args = append(args, questions[i].keys...)
		runs = append(runs, questions[i].run...)
	}
	args = append(args, runs)
	if routed {
		args = append(args, "routed")
	}
	cmd := redis.NewStringCmd(ctx, args...)
	cmd.SetFirstKeyPos(3)
	return cmd
}

// replies returns those to questions that cmd asked, of which failed says
// what went wrong with all of them.
func replies(cmd *redis.StringCmd, failed error, questions []question, replies []reply) {
	packed, err := cmd.Result()
	if err == nil && packed == "" {
		err = failed // there was no connection
	}
	want := sizeOfNow
	for i := range questions {
		want += questions[i].size
	}
	if err == nil && len(packed) != want {
		err = fmt.Errorf("%w: the script replied %s, which has %d bytes and not %d", store.ErrCounters, quote.Cut(packed), len(packed), want)
	}
	if err != nil {
		for i := range replies {
			replies[i].err = err
		}
		return
	}
	now := strategy.Instant(math.Float64frombits(binary.LittleEndian.Uint64([]byte(packed[:sizeOfNow]))))
	packed = packed[sizeOfNow:]
	for i := range questions {
		size := questions[i].size
		replies[i], packed = reply{now: now, packed: packed[:size]}, packed[size:]
	}
}

// again makes c pending again if its reply says that the script did not run,
// and may run soon. It reports whether to wait before.
//
// TRYAGAIN is the answer while a slot moves, if some of the keys are already
// on the other node; READONLY, if the server has become a replica, which was
// said of the first write, and so before anything was consumed.
func (c *call) again() (wait bool) {
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

// maxWindows is how often a call is asked again because of its windows. The second time
// it has those of the store's clock, and the third is for a clock that then enters the
// next ones.
const maxWindows = 3

// moveWindows makes c pending again, with the windows that its reply shows to be those of
// the store's clock. The script has changed nothing.
func (c *call) moveWindows() {
	at, packed := make([]strategy.Instant, 0, len(c.keys)), c.reply.packed[sizeOfConsumed:]
	eachLimit(c.request, func(r *store.Request, l *strategy.Limit) {
		size := sizeOf(r, l)
		state := parseState(l, packed[:size])
		packed = packed[size:]
		state.Settle(l, c.reply.now, 0)
		at = append(at, max(c.reply.now, state.Last))
	})
	c.run = string(appendRun(nil, c.request, len(c.keys), func(key int) strategy.Instant { return at[key] }))
	c.windows++
	c.pending = true
}

// isApart reports whether a server has refused a script because it does not have all of
// its keys. It has not run it. Proxies have words of their own for it.
func isApart(err error) bool {
	return isReply(err) && (redis.HasErrorPrefix(err, "CROSSSLOT") || strings.Contains(err.Error(), "same slot"))
}

// refusesHash reports whether a server has refused EVALSHA as a command, and so has not
// run it.
func refusesHash(err error) bool {
	return isReply(err) && (redis.IsPermissionError(err) || strings.Contains(err.Error(), "unknown command")) &&
		strings.Contains(strings.ToLower(err.Error()), "evalsha")
}

// decide sets the result of c to the answer that the reply implies.
func (c *call) decide() {
	with := c.result.With
	err := c.answer(c.request, c.result)
	c.result.All(c.request, func(_ *store.Request, res *store.Result) { res.Err = err })
	if len(c.request.With) == 0 { // it may be of a request whose With is decided apart
		c.result.With = with
	}
}

func (c *call) answer(r *store.Request, res *store.Result) error {
	if c.cut != nil {
		if why := c.dialer.failure(); why != nil {
			return fmt.Errorf("redis: no reply in time: %w; connecting last failed: %w", c.cut, why)
		}
		return fmt.Errorf("redis: no reply in time: %w", c.cut)
	}
	var states string
	var now strategy.Instant
	var consumed strategy.Consumed
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
		now, consumed, states = c.reply.now, strategy.Consumed(c.reply.packed[0]), c.reply.packed[sizeOfConsumed:]
	}
	if decideByStates(r, res, states, now) != consumed && c.reply != nil {
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

// decideByStates decides r, and its With, by the states from before, in order.
// It returns from which limits they consumed.
func decideByStates(r *store.Request, res *store.Result, packed string, now strategy.Instant) strategy.Consumed {
	decide := func(dryRun bool) (consumed strategy.Consumed, refused bool) {
		packed := packed
		res.All(r, func(r *store.Request, res *store.Result) {
			var states [strategy.MaxLimits]strategy.State
			for j := range r.Limits {
				if l := &r.Limits[j]; len(packed) > 0 && !l.Rate.IsUnlimited() {
					size := sizeOf(r, l)
					states[j], packed = parseState(l, packed[:size]), packed[size:]
					states[j].Settle(l, now, 0)
				}
			}
			a := r.Ask(now)
			a.DryRun = a.DryRun || dryRun
			from := res.Decide(r.Limits, states[:len(r.Limits)], a)
			consumed, refused = max(consumed, from), refused || res.Refused
		})
		return consumed, refused
	}
	if len(r.With) > 0 {
		if _, refused := decide(true); refused {
			return strategy.ConsumedNone
		}
	}
	consumed, _ := decide(false)
	return consumed
}

// The sizes of what decide.lua packs.
const (
	sizeOfNow      = 8
	sizeOfConsumed = 1
	sizeOfNumber   = 16 // of one that is numeric
	sizeOfState    = 24
	sizeOfView     = 32 // of a sliding window log, but for a take
)

// numberUnit is what the number of a numeric counter is a multiple of, but for the units used.
const numberUnit = 1_000_000

// sizeOf returns how long the state of the counter of l, a limit of r, is.
func sizeOf(r *store.Request, l *strategy.Limit) int {
	switch {
	case numeric(l):
		return sizeOfNumber
	case r.Mode != strategy.Take && l.Strategy == strategy.SlidingWindowLog:
		return sizeOfView
	}
	return sizeOfState
}

// What decide.lua packs instead of a strategy.Consumed, and the errors of it.
const (
	foreign = 3 // a key holds what is no string
	damaged = 4 // a key held what is no counter, and is deleted
	// elsewhere: the window of a limit that follows the calendar is not that of the server's
	// clock, and nothing was changed.
	elsewhere = 5
)

var (
	errForeign = errors.New("WRONGTYPE")
	errDamaged = errors.New("a value that was corrupt")
)

// parseState reads the state of the counter of l as decide.lua packs it, which has found it
// to be one.
func parseState(l *strategy.Limit, packed string) strategy.State {
	var part, partAfter float64
	switch len(packed) {
	case sizeOfNumber:
		if packed[0] >= '0' && packed[0] <= '9' {
			return parseNumber(packed)
		}
	case sizeOfView:
		partAfter = double(packed[sizeOfState:])
		fallthrough
	case sizeOfState:
		if l.Strategy != strategy.FixedWindow { // of which it only says how long the key lives
			part = double(packed[16:])
		}
	default:
		return strategy.State{}
	}
	last, used := double(packed), double(packed[8:])
	if last < 0 || used < 0 || part < 0 || !(last+used+part < 1<<55) {
		return strategy.State{}
	}
	return strategy.State{Last: strategy.Instant(last), Used: int64(used), Part: int64(part), PartAfter: int64(partAfter)}
}

// parseNumber reads the number of a numeric counter: the start of the window in
// microseconds, and the units used.
func parseNumber(digits string) strategy.State {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n == 0 {
		return strategy.State{}
	}
	used := n % numberUnit
	return strategy.State{Last: strategy.Instant(n - used), Used: used}
}

// double returns the double that packed begins with.
func double(packed string) float64 {
	return math.Float64frombits(binary.BigEndian.Uint64([]byte(packed[:8])))
}
