package attack

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/connect"
)

const (
	// memoryMB is the memory limit of deploy/kubernetes/deployment.yaml, as
	// TestMemoryOfTheManifest sees to.
	memoryMB = 512
	// goMemory is what the daemon itself makes of that limit in a container.
	goMemory = "460MiB"
	// smallMB is the bound for the small attacks, which take the less the less they send.
	smallMB = 256
	// patience is how long a busy machine may need for what takes a moment elsewhere.
	patience = 30 * time.Second
)

// TestMemoryOfTheManifest compares the memory here with that of the manifest.
func TestMemoryOfTheManifest(t *testing.T) {
	text, err := os.ReadFile("../../deploy/kubernetes/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("limits: {memory: %dMi}", memoryMB); !strings.Contains(string(text), want) {
		t.Errorf("the manifest does not have %q", want)
	}
	if want := fmt.Sprintf("%dMiB", memoryMB*9/10); goMemory != want {
		t.Errorf("the daemon makes %s of it, and here it is %s", want, goMemory)
	}
}

// program is the daemon, built as it is shipped.
var program string

// build builds the daemon into a directory.
func build(dir string) error {
	program = filepath.Join(dir, "ratelimitd")
	cmd := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", program, "../../cmd/ratelimitd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the daemon: %w\n%s", err, text)
	}
	return nil
}

// A setup is how a daemon is to be started.
type setup struct {
	flags []string
	// namespaces are more lines of the configuration file, below namespaces.
	namespaces string
	// files is how many files it may open. 0: as many as this process.
	files int
	// credentials are those of the innocent caller.
	credentials connect.Options
	// operator is a token for the admin port. "": it asks for none.
	operator string
	log      logReader
}

// A logReader says what whoever reads the log of a daemon does once that serves.
type logReader int

const (
	readsLog logReader = iota
	leavesLog
	closesLog
)

// A daemon is a running process.
type daemon struct {
	GRPC, HTTP, Admin, RESP string

	config   string // its file
	operator string // a token for the admin port
	process  *os.Process
	exited   chan struct{} // closed when the process has ended
	status   error         // of its end; set when exited is closed
	peak     atomic.Int64  // its largest resident memory so far, in bytes
	killed   atomic.Bool   // because it took more memory than it has
	logged   atomic.Int64  // bytes of its log since it serves
}

// innocentLimit is how often the innocent caller may do what it asks for.
func innocentLimit() int { return size(300, 3000) }

// start starts a daemon that has the memory of the manifest, until the test ends.
func start(t *testing.T, s setup) *daemon {
	t.Helper()
	d := &daemon{config: filepath.Join(t.TempDir(), "ratelimitd.yaml"), operator: s.operator, exited: make(chan struct{})}
	text := fmt.Sprintf("namespaces:\n  innocent: {policies: {default: {limits: [{name: all, rate: %d/366d}]}}}\n%s", innocentLimit(), s.namespaces)
	write(t, d.config, text)
	args := append([]string{
		program, "serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--resp-addr=127.0.0.1:0", "--log-format=json",
		"--config=" + d.config, "--drain-timeout=500ms",
	}, s.flags...)
	if s.files > 0 {
		args = append([]string{"bash", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, s.files), "bash"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec // the daemon
	cmd.Env = append(os.Environ(), "GOMEMLIMIT="+goMemory)
	log, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	cmd.Stderr = write
	err = startProcess(cmd)
	_ = write.Close()
	if err != nil {
		t.Fatal(err)
	}
	d.process = cmd.Process
	go func() { d.status = cmd.Wait(); close(d.exited) }()
	t.Cleanup(func() { _ = d.process.Kill(); <-d.exited })
	lines := bufio.NewScanner(log)
	var printed strings.Builder
	for lines.Scan() {
		printed.WriteString(lines.Text() + "\n")
		if json.Unmarshal(lines.Bytes(), d) == nil && d.GRPC != "" {
			break
		}
	}
	if d.GRPC == "" {
		t.Fatalf("the daemon does not serve:\n%s", printed.String())
	}
	if _, port, _ := net.SplitHostPort(d.Admin); s.operator != "" { // it listens on all addresses
		d.Admin = net.JoinHostPort("127.0.0.1", port)
	}
	switch s.log {
	case readsLog:
		go func() {
			for lines.Scan() {
				d.logged.Add(int64(len(lines.Bytes())))
				if *verbose {
					fmt.Fprintln(os.Stderr, lines.Text())
				}
			}
		}()
	case closesLog:
		_ = log.Close()
	}
	go d.watch()
	return d
}

// watch kills the daemon when it takes more memory than it has, as the kernel does in
// a container.
func (d *daemon) watch() {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case <-d.exited:
			tick.Stop()
			return
		case <-tick.C:
			if d.look() > memoryMB<<20 {
				d.killed.Store(true)
				_ = d.process.Kill()
			}
		}
	}
}

// look returns the largest resident memory so far, as the kernel knows it.
func (d *daemon) look() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.process.Pid))
	if err != nil {
		return d.peak.Load()
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			d.peak.Store(max(d.peak.Load(), kilobytes<<10))
		}
	}
	return d.peak.Load()
}

// panics returns how many calls have panicked, as the admin port says.
func (d *daemon) panics(t *testing.T) string { return d.metric(t, "ratelimitd_panics_total") }

// metric returns the value of a metric, as the admin port says.
func (d *daemon) metric(t *testing.T, name string) string {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+d.Admin+"/metrics", http.NoBody) //nolint:noctx // the daemon ends by itself
	if err != nil {
		t.Fatal(err)
	}
	if d.operator != "" {
		r.Header.Set("Authorization", "Bearer "+d.operator)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return "unknown"
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return n
		}
	}
	return "unknown"
}

// goroutines returns how many there are.
func (d *daemon) goroutines(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(d.metric(t, "go_goroutines"))
	if err != nil {
		t.Error(err)
	}
	return n
}

// calmsDown waits until no more goroutines are left of an attack than of what is still
// connected.
func (d *daemon) calmsDown(t *testing.T, before int) {
	t.Helper()
	const few = 200
	n := 0
	for until := time.Now().Add(patience); time.Now().Before(until) && d.alive(); time.Sleep(10 * time.Millisecond) {
		if n = d.goroutines(t); n <= before+few {
			return
		}
	}
	if d.alive() {
		t.Errorf("%d goroutines are left of the attack, before it there were %d", n, before)
	}
}

// alive reports whether the process runs.
func (d *daemon) alive() bool {
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// stop tells the daemon to stop, and returns an error if it does not, in time and with
// the status 0.
func (d *daemon) stop() error {
	d.look()
	if !d.alive() {
		if d.killed.Load() {
			return fmt.Errorf("it took more than %d MB", memoryMB)
		}
		return fmt.Errorf("it ended by itself: %w", d.status)
	}
	_ = d.process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
		return d.status
	case <-time.After(patience):
		return fmt.Errorf("it does not stop within %v", patience)
	}
}

// dial returns a gRPC connection to the daemon, until the test ends.
func (d *daemon) dial(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(d.GRPC, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// write replaces a file at once.
func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}
