package redis

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A question is what an exchange asks Redis: nothing, if it has no keys. Nothing
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
	clock := math.Float64frombits(binary.LittleEndian.Uint64([]byte(packed[:sizeOfNow])))
	if !(clock >= 0 && clock < 1<<55) {
		for i := range replies {
			replies[i].err = fmt.Errorf("%w: the script replied that it is %g microseconds after 1970", store.ErrCounters, clock)
		}
		return
	}
	now := strategy.Instant(clock)
	packed = packed[sizeOfNow:]
	for i := range questions {
		size := questions[i].size
		replies[i], packed = reply{now: now, packed: packed[:size]}, packed[size:]
	}
}

// once is a command that the client does not send again after it may have run.
// Without it, a ClusterClient sends a whole pipeline again if the connection fails,
// or if the first reply is an error such as TRYAGAIN.
type once struct{ *redis.StringCmd }

// NoRetry tells the client not to retry.
func (once) NoRetry() bool { return true }
