package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A panicHook is a hook of the client that panics while it is on.
type panicHook struct{ on atomic.Bool }

func (p *panicHook) DialHook(next goredis.DialHook) goredis.DialHook          { return next }
func (p *panicHook) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook { return next }

func (p *panicHook) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		if p.on.Load() {
			panic("planted")
		}
		return next(ctx, cmds)
	}
}

// TestPanicInSender plants a panic where the pipelines are sent.
func TestPanicInSender(t *testing.T) {
	server := redistest.Start(t)
	panics := crash.NewLog(slog.New(slog.DiscardHandler))
	var count atomic.Uint64
	panics.CountIn(&count)
	s, err := New(Options{URLs: []string{server.URL}, Timeout: 10 * time.Second, Panics: panics})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var p panicHook
	s.client.AddHook(&p)
	for round := range 3 {
		for _, on := range []bool{true, false} {
			p.on.Store(on)
			requests := make([]store.Request, 3)
			for i := range requests {
				requests[i] = store.Request{Namespace: "n", Identifier: fmt.Sprint(round, i), Limits: []strategy.Limit{limit(t, strategy.Spec{Rate: "1/h", Strategy: strategy.FixedWindow})}, Cost: 1}
			}
			results := make([]store.Result, len(requests))
			s.Decide(t.Context(), requests, results)
			for i := range results {
				err := results[i].Err
				if on && (!errors.Is(err, crash.Err) || !errors.Is(err, store.ErrCounters)) || !on && err != nil {
					t.Errorf("panics %t: request %d: %v", on, i, err)
				}
			}
		}
	}
	if n := count.Load(); n != 3 {
		t.Errorf("%d panics are counted, want 3", n)
	}
}
