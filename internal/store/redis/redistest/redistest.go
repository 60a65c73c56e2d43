// Package redistest starts real Redis servers for tests, alone and in groups,
// and kills, pauses and restarts them.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// StartProcess starts a server. A test that gives way to it replaces this in its TestMain: a
// process has the priority of the thread that starts it.
var StartProcess = (*exec.Cmd).Start

// patience is how long tests wait for servers on a loaded machine.
const patience = 30 * time.Second

// A Server is a redis-server that keeps nothing on disk. Its methods are not safe for
// concurrent use.
type Server struct {
	Addr string
	URL  string

	options *redis.Options
	asks    *redis.Client // for the use of this package
	command []string
	env     []string // beside that of this process
	process *os.Process
	exited  chan struct{}
	output  *bytes.Buffer // read it only after the process has exited
}

// Start starts a redis-server on a free port of the loopback interface, and stops it
// when the test ends. It has the given arguments too. If the program is not installed,
// the test fails.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	return start(tb, &redis.Options{}, func(port string) []string {
		return append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir()}, args...)
	})
}

// start starts the program on a free port. args returns the arguments for a port.
func start(tb testing.TB, options *redis.Options, args func(port string) []string) *Server {
	tb.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		tb.Fatal("this test needs the program redis-server, which is not installed: run scripts/install-test-deps.sh, or apt-get install redis-server")
	}
	for range 3 { // another program may take a port before Redis does
		port := freePort(tb)
		addr := net.JoinHostPort("127.0.0.1", port)
		options := *options
		options.Addr = addr
		s := &Server{Addr: addr, URL: "redis://" + addr, options: &options, command: append([]string{program}, args(port)...)}
		if err = s.run(tb); err == nil {
			tb.Cleanup(func() {
				s.kill()
				_ = s.client().Close()
			})
			return s
		}
	}
	tb.Fatal(err)
	return nil
}

// run starts the process and waits until it answers.
func (s *Server) run(tb testing.TB) error {
	s.output = new(bytes.Buffer)
	cmd := exec.Command(s.command[0], s.command[1:]...)
	cmd.Stdout, cmd.Stderr = s.output, s.output
	cmd.Env = append(os.Environ(), s.env...)
	if err := StartProcess(cmd); err != nil {
		tb.Fatalf("start redis-server: %v", err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	s.process, s.exited = cmd.Process, exited

	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	for {
		// Another server may have been faster, on the same port.
		info, err := s.client().Info(ctx, "server").Result()
		if err == nil && strings.Contains(info, fmt.Sprintf("process_id:%d\r", s.process.Pid)) {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("redis-server exits:\n%s", s.output)
		case <-ctx.Done():
			s.kill()
			return fmt.Errorf("redis-server at %s does not answer: %w\n%s", s.Addr, err, s.output)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *Server) kill() {
	_ = s.process.Kill() // it may have exited
	<-s.exited
}

// Kill kills the server, as kill -9 does. Connections to it are reset.
func (s *Server) Kill() { s.kill() }

// Stop makes the server shut down in order.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.signal(tb, syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(patience):
		tb.Fatalf("redis-server at %s does not stop within %v", s.Addr, patience)
	}
}

// Pause stops the process where it is. Connections stay open, and the system accepts more
// of them, but there are no answers.
func (s *Server) Pause(tb testing.TB) { tb.Helper(); s.signal(tb, syscall.SIGSTOP) }

// Resume makes a paused server go on.
func (s *Server) Resume(tb testing.TB) { tb.Helper(); s.signal(tb, syscall.SIGCONT) }

func (s *Server) signal(tb testing.TB, signal syscall.Signal) {
	tb.Helper()
	if err := s.process.Signal(signal); err != nil {
		tb.Fatalf("send %v to redis-server at %s: %v", signal, s.Addr, err)
	}
}

// Restart starts a server again that was stopped or killed, at the same address.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if err := s.run(tb); err != nil {
		tb.Fatal(err)
	}
}

// Client returns a client of the server, closed when the test ends.
func (s *Server) Client(tb testing.TB) *redis.Client {
	options := *s.options
	client := redis.NewClient(&options)
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// do runs a command on s, and returns its reply as text.
func (s *Server) do(tb testing.TB, args ...any) string {
	tb.Helper()
	reply, err := s.client().Do(tb.Context(), args...).Result()
	if err != nil {
		tb.Fatalf("%s: %v: %v", s.Addr, args, err)
	}
	return fmt.Sprint(reply)
}

func (s *Server) try(tb testing.TB, args ...any) error {
	return s.client().Do(tb.Context(), args...).Err()
}

// client returns the client that this package uses for s.
func (s *Server) client() *redis.Client {
	if s.asks == nil {
		options := *s.options
		s.asks = redis.NewClient(&options)
	}
	return s.asks
}

// freePort returns a port on which nothing listens. The system does not use it for
// outgoing connections: one of these could take the port while a server is down.
func freePort(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	tb.Fatal("no free port from 10000 to 29999")
	return ""
}

// Eventually waits until done returns nil. If that takes too long, it fails the test with
// the last error of done.
func Eventually(tb testing.TB, what string, done func() error) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
