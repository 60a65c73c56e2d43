package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

const (
	// mute is how long connections begin without HELLO after a server has closed some
	// because of it. Then one tries again: it may be another server by now.
	mute = time.Minute
	// closedTwice tells a server that refuses HELLO from one that has just ended, which
	// closes one connection and then accepts no other.
	closedTwice = 2
)

// A handshake sees what is said when a connection begins. It learns from the reply to
// HELLO what the server is, and leaves out what some servers refuse and nobody needs. It
// is a hook of the client, and safe for concurrent use.
type handshake struct {
	met    func(mode string, refused error) error // see ownership.met; nil for a cluster
	host   string                                 // of the server
	evicts *evicts
	closed atomic.Int64 // how many connections in a row were closed after HELLO
	muted  atomic.Int64 // since when that is because of HELLO, in nanoseconds since the Unix epoch
}

var _ redis.Hook = (*handshake)(nil)

// A refusal is an error reply that no server has sent.
type refusal string

func (r refusal) Error() string { return string(r) }

// RedisError implements redis.Error.
func (refusal) RedisError() {}

// A dismissal is what a server has said that takes no connection now. The client must not
// read it as an error reply to HELLO, after which it would go on.
type dismissal string

func (d dismissal) Error() string { return string(d) }

// DialHook implements redis.Hook.
func (h *handshake) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (h *handshake) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if slots, ok := cmd.(*redis.ClusterSlotsCmd); ok {
			return h.slots(ctx, next, slots)
		}
		if cmd.Name() != "hello" {
			return next(ctx, cmd)
		}
		err := h.hello(ctx, next, cmd)
		cmd.SetErr(err)
		return err
	}
}

// ProcessPipelineHook implements redis.Hook. The name of the connection is in HELLO, so
// CLIENT SETNAME is not sent: some servers refuse it.
func (h *handshake) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if last := len(cmds) - 1; cmds[last].Name() == "client" {
			if cmds = cmds[:last]; last == 0 {
				return nil
			}
		}
		return next(ctx, cmds)
	}
}

// hello says HELLO. A server that closes the connection instead of an answer, as
// twemproxy does, is not greeted again for a while; the client then uses RESP2.
func (h *handshake) hello(ctx context.Context, next redis.ProcessHook, cmd redis.Cmder) error {
	if time.Now().UnixNano()-h.muted.Load() < int64(mute) {
		err := error(refusal("ERR HELLO is not sent: the server has closed a connection because of it"))
		if told := h.tell("", err); told != nil {
			return told
		}
		return err
	}
	err := next(ctx, cmd)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		if h.closed.Add(1) >= closedTwice {
			h.muted.Store(time.Now().UnixNano())
		}
		return errAgain
	case err != nil && !isReply(err), redis.IsAuthError(err):
		return err // which says nothing of what the server is
	case err != nil && isUnwell(err): // and it closes the connection, or would refuse all else
		return dismissal(err.Error())
	}
	h.closed.Store(0)
	if err == nil {
		if err := h.evicts.look(ctx, next); err != nil {
			return err
		}
	}
	mode := ""
	if reply, ok := cmd.(*redis.MapStringInterfaceCmd); ok && err == nil {
		mode, _ = reply.Val()["mode"].(string)
	}
	if told := h.tell(mode, err); told != nil {
		return told
	}
	return err
}

// slots asks a node which nodes have which slots. A cluster may say that it does not know
// the host of a node (cluster-preferred-endpoint-type unknown-endpoint): it is that by
// which this one is reached. The client would fail.
func (h *handshake) slots(ctx context.Context, next redis.ProcessHook, cmd *redis.ClusterSlotsCmd) error {
	raw := redis.NewSliceCmd(ctx, cmd.Args()...)
	if err := next(ctx, raw); err != nil {
		cmd.SetErr(err)
		return err
	}
	slots, err := parseSlots(raw.Val(), h.host)
	cmd.SetVal(slots)
	cmd.SetErr(err)
	return err
}

// parseSlots reads a reply to CLUSTER SLOTS, with host for each that it does not know.
func parseSlots(reply []any, host string) ([]redis.ClusterSlot, error) {
	slots := make([]redis.ClusterSlot, 0, len(reply))
	for _, element := range reply {
		fields, _ := element.([]any)
		if len(fields) < 2 {
			return nil, fmt.Errorf("%w: CLUSTER SLOTS has %s", errReply, quote.Cut(fmt.Sprint(element)))
		}
		start, okStart := fields[0].(int64)
		end, okEnd := fields[1].(int64)
		slot := redis.ClusterSlot{Start: int(start), End: int(end)}
		for _, field := range fields[2:] {
			node, _ := field.([]any) // host, port, and what is of no use here
			if len(node) < 2 {
				okStart = false
				break
			}
			at, _ := node[0].(string)
			if at == "" || at == "?" {
				at = host
			}
			slot.Nodes = append(slot.Nodes, redis.ClusterNode{Addr: net.JoinHostPort(at, fmt.Sprint(node[1]))})
		}
		if !okStart || !okEnd {
			return nil, fmt.Errorf("%w: CLUSTER SLOTS has %s", errReply, quote.Cut(fmt.Sprint(element)))
		}
		slots = append(slots, slot)
	}
	return slots, nil
}

func (h *handshake) tell(mode string, refused error) error {
	if h.met == nil {
		return nil
	}
	return h.met(mode, refused)
}
