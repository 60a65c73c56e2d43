package netlimit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/netlimit"
)

// asServer, in the environment, makes this test binary a server without file
// descriptors.
const asServer = "TEST_AS_SERVER_WITHOUT_DESCRIPTORS"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		serveWithoutDescriptors()
		return
	}
	goleak.VerifyTestMain(m)
}

// A log is what was logged.
type log struct {
	mu   sync.Mutex // protects the following
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) lines(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// echo serves the lines that it gets back, on a port that is bounded by b.
func echo(t *testing.T, b *netlimit.Bound, name string) (addr string) {
	t.Helper()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := b.Listen(raw, name)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); _ = l.Close(); serving.Wait() })
	return raw.Addr().String()
}

// A client is a connection to a port.
type client struct{ net.Conn }

// connect connects from one of the addresses of the loopback network.
func connect(t *testing.T, from, to string) client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	c, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return client{c}
}

// answers reports whether the port answers the client.
func (c client) answers() bool {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("ping\n")); err != nil {
		return false
	}
	got, err := bufio.NewReader(c).ReadString('\n')
	return err == nil && got == "ping\n"
}

// ends waits until the port has closed the connection, and returns how long that
// took.
func (c client) ends() time.Duration {
	start := time.Now()
	_ = c.SetDeadline(start.Add(10 * time.Second))
	_, _ = c.Read(make([]byte, 1))
	return time.Since(start)
}

func TestPerAddress(t *testing.T) {
	var lines log
	b := netlimit.New(netlimit.Options{Max: 10, PerAddress: 3, Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	one, two := echo(t, b, "one"), echo(t, b, "two")
	var first []client
	for i, port := range []string{one, two, one} {
		c := connect(t, "127.0.0.1", port)
		if !c.answers() {
			t.Fatalf("connection %d is refused", i)
		}
		first = append(first, c)
	}
	for range 5 {
		if connect(t, "127.0.0.1", two).answers() {
			t.Error("an address has more connections than it may have")
		}
	}
	if !connect(t, "127.0.0.2", two).answers() {
		t.Error("another address is refused")
	}
	_ = first[0].Close()
	for deadline := time.Now().Add(5 * time.Second); !connect(t, "127.0.0.1", two).answers(); {
		if time.Now().After(deadline) {
			t.Fatal("there is no room again")
		}
	}
	if n := lines.lines("an address has as many connections"); n != 1 {
		t.Errorf("the log says %d times that an address has too many connections, want 1", n)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b)
	const want = `# HELP ratelimitd_connections Open connections, by port.
# TYPE ratelimitd_connections gauge
ratelimitd_connections{port="one"} 1
ratelimitd_connections{port="two"} 3
# HELP ratelimitd_max_connections How many connections there may be on all ports together.
# TYPE ratelimitd_max_connections gauge
ratelimitd_max_connections 10
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "ratelimitd_connections", "ratelimitd_max_connections"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// TestFull has a port full of connections, and of others that come after them:
// a probe is answered all the same, and the connections within the bound stay.
func TestFull(t *testing.T) {
	var lines log
	b := netlimit.New(netlimit.Options{Max: 4, PerAddress: 1000, Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	port := echo(t, b, "port")
	var within []client
	for range 4 {
		within = append(within, connect(t, "127.0.0.1", port))
	}
	for _, c := range within {
		if !c.answers() {
			t.Fatal("a connection within the bound is refused")
		}
	}
	oldest := connect(t, "127.0.0.1", port)
	if !oldest.answers() {
		t.Error("a connection beyond the bound gets no answer")
	}
	for range 40 {
		connect(t, "127.0.0.1", port)
	}
	probe := connect(t, "127.0.0.1", port)
	if !probe.answers() {
		t.Error("a probe gets no answer")
	}
	if took := oldest.ends(); took > netlimit.SpareLife/2 {
		t.Errorf("the oldest spare connection ends after %v, want at once", took)
	}
	if took := probe.ends(); took < netlimit.SpareLife/2 || took > 2*netlimit.SpareLife {
		t.Errorf("a spare connection ends after %v, want %v", took, netlimit.SpareLife)
	}
	for _, c := range within {
		if !c.answers() {
			t.Error("a connection within the bound was closed")
		}
	}
	if n := lines.lines("as many connections as there may be"); n != 1 {
		t.Errorf("the log says %d times that there are too many connections, want 1", n)
	}
}

// serveWithoutDescriptors serves HTTP, says where, and takes all descriptors when
// it is told to.
func serveWithoutDescriptors() {
	limit := syscall.Rlimit{Cur: 64, Max: 64}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	b := netlimit.New(netlimit.Options{Max: 1000, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	l := b.Listen(raw, "http")
	go func() { _ = http.Serve(l, http.NotFoundHandler()) }() //nolint:gosec // for this test alone
	fmt.Println(raw.Addr())
	stdin := bufio.NewScanner(os.Stdin)
	stdin.Scan()
	var taken []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			break
		}
		taken = append(taken, f)
	}
	fmt.Println("taken")
	stdin.Scan()
	for _, f := range taken {
		_ = f.Close()
	}
	fmt.Println("free")
	stdin.Scan()
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	fmt.Println(time.Duration(usage.Utime.Nano() + usage.Stime.Nano()))
}

// TestWithoutDescriptors asks a process that has no file descriptor left.
func TestWithoutDescriptors(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), asServer+"=1")
	var errs strings.Builder
	cmd.Stderr = &errs
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	printed := bufio.NewScanner(stdout)
	next := func() string { printed.Scan(); return printed.Text() }
	addr := next()
	get := func() error {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
		defer client.CloseIdleConnections()
		answer, err := client.Get("http://" + addr + "/healthz")
		if err == nil {
			_ = answer.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin, "take all")
	if got := next(); got != "taken" {
		t.Fatal(got)
	}
	for i := range 20 {
		if err := get(); err != nil {
			t.Fatalf("probe %d without descriptors: %v", i, err)
		}
	}
	var crowd []net.Conn // who say nothing
	for range 50 {
		if c, err := net.DialTimeout("tcp", addr, 5*time.Second); err == nil {
			crowd = append(crowd, c)
		}
	}
	for i := range 5 {
		if err := get(); err != nil {
			t.Fatalf("probe %d in a crowd without descriptors: %v", i, err)
		}
	}
	fmt.Fprintln(stdin, "free all")
	next()
	for _, c := range crowd {
		_ = c.Close()
	}
	if err := get(); err != nil {
		t.Error(err)
	}
	fmt.Fprintln(stdin, "end")
	if used, err := time.ParseDuration(next()); err != nil || used > 2*time.Second {
		t.Errorf("it used %v of processor time (%v)", used, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(errs.String(), "no file descriptor is left"); n != 1 {
		t.Errorf("the log says %d times that no descriptor is left, want 1:\n%s", n, errs.String())
	}
}

// A failingListener fails to accept for a while.
type failingListener struct {
	net.Listener
	errs []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return l.Listener.Accept()
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
}

// TestPassingErrors has errors of accept that pass, and one that does not.
func TestPassingErrors(t *testing.T) {
	var lines log
	b := netlimit.New(netlimit.Options{Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := b.Listen(&failingListener{raw, []error{syscall.ENOMEM, syscall.ECONNABORTED, syscall.ENOBUFS, syscall.EBADF}}, "port")
	defer l.Close()
	if c, err := l.Accept(); c != nil || !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v, %v; want EBADF alone", c, err)
	}
	if n := lines.lines("cannot be accepted"); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}
