// Package redistest starts real Redis servers for tests.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Server is a running redis-server with nothing on disk.
type Server struct {
	Addr string
	URL  string
}

// Start starts a redis-server on a free port of the loopback interface, and
// stops it when the test ends. Without the program the test fails.
func Start(tb testing.TB) *Server {
	tb.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		tb.Fatal("this test needs the program redis-server, which is not installed: run scripts/install-test-deps.sh, or apt-get install redis-server")
	}
	var output bytes.Buffer
	for range 3 { // another program may take the port before Redis does
		addr := freeAddr(tb)
		_, port, _ := net.SplitHostPort(addr)
		output.Reset()
		cmd := exec.Command(program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir())
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Start(); err != nil {
			tb.Fatalf("start redis-server: %v", err)
		}
		exited := make(chan struct{})
		go func() { _ = cmd.Wait(); close(exited) }()
		if err := await(tb, addr, exited); err == nil {
			tb.Cleanup(func() { _ = cmd.Process.Kill(); <-exited })
			return &Server{Addr: addr, URL: "redis://" + addr}
		}
		_ = cmd.Process.Kill()
		<-exited
	}
	tb.Fatalf("redis-server does not start:\n%s", output.String())
	return nil
}

// Client returns a client of the server, closed when the test ends.
func (s *Server) Client(tb testing.TB) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: s.Addr})
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// await waits until the server at addr answers.
func await(tb testing.TB, addr string, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		err := client.Ping(ctx).Err()
		if err == nil {
			tick.Stop()
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("it exited: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("no answer from %s: %w", addr, err)
		case <-tick.C:
		}
	}
}

func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
