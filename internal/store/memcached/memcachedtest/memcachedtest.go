// Package memcachedtest starts real memcached servers for tests.
package memcachedtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Server is a running memcached.
type Server struct {
	Addr string

	program string
	args    []string
	process *os.Process
	exited  chan struct{}
}

// patience is longer than it takes to start a memcached on a loaded machine.
const patience = 10 * time.Second

// Start starts a memcached on a free port of the loopback interface, and stops
// it when the test ends. It has the given arguments too. If the program is not installed,
// the test fails.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	program, err := exec.LookPath("memcached")
	if err != nil {
		tb.Fatal("this test needs the program memcached, which is not installed: run scripts/install-test-deps.sh, or apt-get install memcached")
	}
	s := &Server{program: program, args: args}
	for range 3 { // another program may take the port before memcached does
		s.Addr = freeAddr(tb)
		if err = s.start(); err == nil {
			tb.Cleanup(s.Stop)
			return s
		}
	}
	tb.Fatal(err)
	return nil
}

// Stop kills the server. Its connections break, and its items are lost.
func (s *Server) Stop() {
	_ = s.process.Kill()
	<-s.exited
}

// Pause stops the process where it is. Connections stay open, and the system accepts more
// of them, but there are no answers.
func (s *Server) Pause(tb testing.TB) { tb.Helper(); s.signal(tb, syscall.SIGSTOP) }

// Resume makes a paused server go on.
func (s *Server) Resume(tb testing.TB) { tb.Helper(); s.signal(tb, syscall.SIGCONT) }

func (s *Server) signal(tb testing.TB, signal syscall.Signal) {
	tb.Helper()
	if err := s.process.Signal(signal); err != nil {
		tb.Fatalf("send %v to memcached at %s: %v", signal, s.Addr, err)
	}
}

// Restart stops the server if it runs, and starts it again at the same address.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.Stop()
	if err := s.start(); err != nil {
		tb.Fatal(err)
	}
}

// Ask sends one command to the server and returns the lines of its answer.
func (s *Server) Ask(tb testing.TB, command string) []string {
	tb.Helper()
	lines, err := ask(s.Addr, command)
	if err != nil {
		tb.Fatalf("%s: %v", command, err)
	}
	return lines
}

// Set writes an item.
func (s *Server) Set(tb testing.TB, key string, value []byte) {
	tb.Helper()
	if lines := s.Ask(tb, fmt.Sprintf("set %s 0 0 %d\r\n%s", key, len(value), value)); len(lines) != 1 || lines[0] != "STORED" {
		tb.Fatalf("set %s: %q", key, lines)
	}
}

func (s *Server) start() error {
	_, port, _ := net.SplitHostPort(s.Addr)
	var output bytes.Buffer
	// memcached refuses to run as root unless it is told which user to become.
	cmd := exec.Command(s.program, append([]string{"-l", "127.0.0.1", "-p", port, "-U", "0", "-u", "nobody"}, s.args...)...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start memcached: %w", err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	s.process, s.exited = cmd.Process, exited
	if err := await(s.Addr, exited); err != nil {
		s.Stop()
		return fmt.Errorf("memcached does not start: %w\n%s", err, output.String())
	}
	return nil
}

// await waits until the server at addr answers.
func await(addr string, exited <-chan struct{}) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; {
		_, err := ask(addr, "version")
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-exited:
			return errors.New("it exited")
		case <-tick.C:
		}
	}
}

// ask sends command to addr, followed by a command that does nothing. The answer to the
// second marks the end of the answer to the first.
func ask(addr, command string) ([]string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c, "%s\r\nmn\r\n", command); err != nil {
		return nil, err
	}
	var lines []string
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if line = strings.TrimSuffix(line, "\r\n"); line == "MN" {
			return lines, nil
		}
		lines = append(lines, line)
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
