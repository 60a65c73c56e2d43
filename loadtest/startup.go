package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// startups is how often the start-up is measured.
const startups = 11

// startup measures how long the daemon takes from its start to its first answer, and how
// large its binary is.
func startup(ctx context.Context, all *programs) (string, error) {
	file, err := os.Stat(filepath.Join(all.dir, "ratelimitd"))
	if err != nil {
		return "", err
	}
	took := make([]float64, startups)
	for i := range took {
		start := time.Now()
		p, err := all.start(ctx, memoryServer)
		if err != nil {
			return "", err
		}
		err = askOnce(ctx, p.grpc)
		took[i] = float64(time.Since(start).Microseconds()) / 1000
		p.stop()
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("\nFrom the start of the daemon to its first decision, store in memory: %s ms. The binary (`make build`) has %.1f MB.\n", spread(took, "%.0f"), float64(file.Size())/1e6), nil
}

// askOnce asks for one decision.
func askOnce(ctx context.Context, addr string) error {
	t, err := target.Dial(ctx, target.Options{
		Protocol: target.Unary, Addr: addr, Connections: 1, Sessions: 1,
		Namespace: "loadtest", Cost: 1, Limits: []*ratelimitv1.Limit{{Rate: "100/s"}},
	})
	if err != nil {
		return err
	}
	defer t.Close()
	return t.Session().Ask(ctx, []string{"user:1"}, make([]target.Verdict, 1))
}
