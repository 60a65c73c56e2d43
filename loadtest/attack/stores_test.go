package attack

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// storeAttacks have a store that lies, or a caller who keeps a good one busy.
func storeAttacks() []attack {
	all := []attack{{name: "heavy batches", do: heavy}, {name: "heavy batches on Redis", prepare: func(t *testing.T) setup {
		flags := []string{"--store=redis", "--redis-url=" + redistest.Start(t).URL}
		if !*large { // a busy machine may make Redis slower than the default timeout, whoever asks
			flags = append(flags, "--store-timeout=20s")
		}
		return setup{flags: flags}
	}, do: heavy}}
	hostile := func(store string, replies map[string]storetest.Reply, serve func(*testing.T, storetest.Reply) string) {
		for _, name := range slices.Sorted(maps.Keys(replies)) {
			all = append(all, attack{name: store + ": " + name, prepare: func(t *testing.T) setup {
				return setup{flags: []string{"--store=" + store, serve(t, replies[name]), "--on-error=local"}}
			}, do: askAll})
		}
	}
	hostile("redis", redistest.HostileReplies(), func(t *testing.T, r storetest.Reply) string { return "--redis-url=" + redistest.Hostile(t, r) })
	hostile("memcached", memcachedtest.HostileReplies(), func(t *testing.T, r storetest.Reply) string { return "--memcached-addr=" + memcachedtest.Hostile(t, r) })
	return all
}

// askAll has several callers ask, so that the daemon asks its store on many connections. Each
// answer has to say that the store fails.
func askAll(ctx context.Context, t *testing.T, d *daemon) {
	client := ratelimitv1.NewRateLimitServiceClient(d.dial(t))
	until := time.Now().Add(time.Duration(size(300, 3000)) * time.Millisecond)
	var asking sync.WaitGroup
	for i := range 32 {
		asking.Go(func() {
			for j := 0; time.Now().Before(until) && ctx.Err() == nil; j++ {
				answer, err := client.ShouldAllow(ctx, &ratelimitv1.ShouldAllowRequest{Namespace: "others", Identifier: fmt.Sprint(i, j), Limits: []*ratelimitv1.Limit{{Rate: "1/s"}}})
				if err == nil && answer.GetReason() != ratelimitv1.Reason_STORE_FAILURE {
					err = fmt.Errorf("%v, and not that the store fails", answer)
				}
				if err != nil {
					t.Errorf("a call gets %v", err)
					return
				}
			}
		})
	}
	asking.Wait()
}

// heavy has streams of the largest batches that are valid.
func heavy(ctx context.Context, t *testing.T, d *daemon) {
	in := &ratelimitv1.ShouldAllowBatchRequest{}
	for i := range 1000 {
		r := &ratelimitv1.ShouldAllowRequest{Namespace: "heavy", Identifier: fmt.Sprint(i)}
		for j := range 16 {
			r.Limits = append(r.Limits, &ratelimitv1.Limit{Rate: fmt.Sprint(1000+j, "/h")})
		}
		in.Requests = append(in.Requests, r)
	}
	streams := size(2, 20)
	together(ctx, streams, streams, func(int) {
		stream, err := ratelimitv1.NewRateLimitServiceClient(d.dial(t)).ShouldAllowStream(ctx, grpc.WaitForReady(true))
		for i := 0; i < size(2, 20) && err == nil; i++ {
			if err = stream.Send(in); err == nil {
				_, err = stream.Recv()
			}
		}
		// To refuse a heavy caller is right. What counts is what others notice.
	})
}
