package replay_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/replay"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startDaemon runs a daemon of a configuration until the test ends. Its store has the time of
// clock.
func startDaemon(t *testing.T, file string, clock *atomic.Int64) ratelimitv1.RateLimitServiceClient {
	t.Helper()
	c, p, err := config.Read(flags.Source{"config": {Text: file, Name: "--config"}}, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	memoryOptions := c.MemoryOptions()
	memoryOptions.Now = func() strategy.Instant { return strategy.Instant(clock.Load()) }
	counters, err := memory.New(memoryOptions)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Options{
		GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", LogLevel: new(slog.LevelVar),
		Store: counters, StoreName: "memory", Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
		Config: &server.Config{Policies: p.Namespaces},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ratelimitv1.NewRateLimitServiceClient(conn)
}

// TestLikeDaemon decides what a daemon decides that is asked the same over gRPC, one by one,
// and whose clock stands at each record's time.
func TestLikeDaemon(t *testing.T) {
	const records = 3000
	file := write(t, "new.yaml", replay.Policies)
	random := rand.New(rand.NewPCG(1, 2))
	var log strings.Builder
	log.WriteString("time,ip,cost\n")
	at := replay.Start.UnixMicro()
	for range records {
		at += random.Int64N(100_000) / 50_000 * 20_000 // some are of one instant
		ip := fmt.Sprintf("10.0.0.%d", random.IntN(12))
		if random.IntN(4) == 0 {
			ip = fmt.Sprintf("192.168.0.%d", random.IntN(3))
		}
		fmt.Fprintf(&log, "%d,%s,%d\n", at, ip, random.IntN(4))
	}
	var clock atomic.Int64
	daemon := startDaemon(t, file, &clock)
	reasons := map[ratelimitv1.Reason]decide.Outcome{
		ratelimitv1.Reason_WITHIN_LIMIT: decide.Allowed, ratelimitv1.Reason_OVER_LIMIT: decide.Denied, ratelimitv1.Reason_EXEMPT: decide.Exempt,
	}
	outcomes := map[decide.Outcome]int{}
	n := 0
	err := replay.Watched(t.Context(), file, write(t, "log.csv", log.String()), func(e replay.Watch) {
		clock.Store(e.At)
		answer, err := daemon.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "web", Policy: "default", Identifier: e.Identifier, Cost: &e.Cost})
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := reasons[answer.GetReason()]; !ok || e.Outcome != want {
			t.Errorf("record %d, %s at %d: %v, and a daemon says %v", n, e.Identifier, e.At, e.Outcome, answer)
		}
		outcomes[e.Outcome]++
		n++
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != records || outcomes[decide.Allowed] < 100 || outcomes[decide.Denied] < 100 || outcomes[decide.Exempt] < 100 {
		t.Errorf("%d decisions: %v", n, outcomes)
	}
}
