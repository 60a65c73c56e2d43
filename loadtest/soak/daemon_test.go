package soak

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A daemon is a process that can be restarted at its addresses.
type daemon struct {
	name       string
	grpc, http string // host:port
	config     string // its file
	args       []string

	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	client ratelimitv1.RateLimitServiceClient

	restarts atomic.Int64
	seen     []sample
}

// A sample is what a daemon takes at one time.
type sample struct{ rss, descriptors, goroutines float64 }

// build builds the daemon as it is shipped.
func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "ratelimitd")
	cmd := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", program, "../../cmd/ratelimitd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the daemon: %v\n%s", err, text)
	}
	return program
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// serve starts a daemon, until the test ends.
func serve(t *testing.T, program, name string, flags ...string) *daemon {
	t.Helper()
	d := &daemon{name: name, grpc: freeAddr(t), http: freeAddr(t), config: filepath.Join(t.TempDir(), "ratelimitd.yaml")}
	d.configure(t, 100)
	d.args = append([]string{program, "serve", "--grpc-addr=" + d.grpc, "--http-addr=" + d.http, "--admin-addr=off", "--log-level=error", "--on-error=deny", "--config=" + d.config}, flags...)
	d.start(t)
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
		if log, err := os.ReadFile(d.config + ".log"); t.Failed() && err == nil {
			t.Logf("%s, at the end: %s", d.name, log[max(0, len(log)-4096):])
		}
	})
	var err error
	if d.conn, err = grpc.NewClient(d.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.conn.Close() })
	d.client = ratelimitv1.NewRateLimitServiceClient(d.conn)
	return d
}

// configure writes the configuration, with a policy of so many in an hour.
func (d *daemon) configure(t *testing.T, rate int) {
	t.Helper()
	text := fmt.Sprintf("namespaces:\n  soak: {policies: {default: {limits: [{name: all, rate: %d/h}, {rate: 1000/min, strategy: gcra, burst: 50}]}}}\n", rate)
	if err := os.WriteFile(d.config+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.config+".new", d.config); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	d.cmd = exec.Command(d.args[0], d.args[1:]...) //nolint:gosec // the daemon
	log, err := os.OpenFile(d.config+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = log
	defer log.Close() // the process has it
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, d.name+" serves", func() error {
		answer, err := http.Get("http://" + d.http + "/readyz")
		if err != nil {
			return err
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	})
}

// restart stops the daemon as an operator does, and starts it again.
func (d *daemon) restart(t *testing.T) {
	t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("%s stops: %v", d.name, err)
	}
	d.start(t)
	d.restarts.Add(1)
}

// sample returns what the daemon takes now.
func (d *daemon) sample() (s sample, err error) {
	families, err := d.metrics()
	if err != nil {
		return s, err
	}
	value := func(name string) float64 { return families[name].GetMetric()[0].GetGauge().GetValue() }
	return sample{value("process_resident_memory_bytes"), value("process_open_fds"), value("go_goroutines")}, nil
}

// decisions returns how many decisions the process has made.
func (d *daemon) decisions() (n float64) {
	families, err := d.metrics()
	if err != nil {
		return 0
	}
	for _, m := range families["ratelimitd_decisions_total"].GetMetric() {
		n += m.GetCounter().GetValue()
	}
	return n
}

func (d *daemon) metrics() (map[string]*dto.MetricFamily, error) {
	answer, err := http.Get("http://" + d.http + "/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(answer.Body)
}
