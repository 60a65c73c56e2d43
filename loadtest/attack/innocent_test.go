package attack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ratelimitd/ratelimitd/internal/connect"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// An innocent is a caller that asks about its own counter while an attack goes on. It is
// a process of its own, so that it does not wait for the attacker's goroutines.
type innocent struct {
	stdin  io.Closer
	answer *json.Decoder
	cmd    *exec.Cmd
}

// An errand is what an innocent caller does.
type errand struct {
	GRPC, HTTP  string
	Credentials connect.Options
	Limit       int // of its counter
}

// A report is what happened to an innocent caller.
type report struct {
	Asked, Allowed int
	P99            time.Duration // of its calls during the attack
	Problem        string        // the first failure of a call or a probe
}

const (
	// asInnocent, in the environment, makes this test binary an innocent caller.
	asInnocent = "TEST_AS_INNOCENT_CALLER"
	// askEvery and probeEvery are how often it asks, and how often it asks for the
	// daemon's health.
	askEvery, probeEvery = 10 * time.Millisecond, 100 * time.Millisecond
	// probes is how many probes have to fail, one after the other, for the daemon to
	// count as ill: what Kubernetes has by default.
	probes = 3
	// beyond is how often it asks at least after its limit is used up.
	beyond = 50
)

// startInnocent starts an innocent caller. It has asked once when this returns.
func startInnocent(t *testing.T, e errand) *innocent {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0]) //nolint:gosec // this program
	cmd.Env = append(os.Environ(), asInnocent+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, _ := cmd.StdinPipe()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := startProcess(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	c := &innocent{stdin, json.NewDecoder(stdout), cmd}
	var first report
	if err := c.answer.Decode(&first); err != nil || first.Problem != "" {
		t.Fatalf("before the attack: %v, %s", err, first.Problem)
	}
	return c
}

// end ends the caller, and returns its report.
func (c *innocent) end() (r report, err error) {
	_ = c.stdin.Close()
	err = c.answer.Decode(&r)
	return r, err
}

// beInnocent runs the errand of the environment until standard input ends.
func beInnocent() error {
	var e errand
	if err := json.Unmarshal([]byte(os.Getenv(asInnocent)), &e); err != nil {
		return err
	}
	link, err := e.Credentials.Open(os.LookupEnv)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(e.GRPC, append(link.GRPC(), grpc.WithContextDialer(elsewhere))...)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := &runner{errand: e, link: link, client: ratelimitv1.NewRateLimitServiceClient(conn), health: healthpb.NewHealthClient(conn)}
	r.ask(time.Now())
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(r.report); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	r.run(ctx)
	return out.Encode(r.report)
}

// elsewhere connects from an address that no attacker has: the innocent caller is another client.
func elsewhere(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	return d.DialContext(ctx, "tcp", addr)
}

// A runner runs an errand.
type runner struct {
	errand
	link   connect.Link
	client ratelimitv1.RateLimitServiceClient
	health healthpb.HealthClient

	mu sync.Mutex // protects the following
	report
	took []time.Duration
}

func (r *runner) run(ctx context.Context) {
	var probing sync.WaitGroup
	var sick error
	probing.Go(func() {
		for failures := 0; ctx.Err() == nil && failures < probes; time.Sleep(probeEvery) {
			if err := r.probe(); err == nil {
				failures = 0
			} else if failures++; failures == probes {
				sick = err
			}
		}
	})
	r.took = nil
	var asking sync.WaitGroup
	for next := time.Now(); ctx.Err() == nil; next = next.Add(askEvery) {
		time.Sleep(time.Until(next))
		asking.Go(func() { r.ask(next) })
	}
	asking.Wait()
	if slices.Sort(r.took); len(r.took) > 0 {
		r.P99 = r.took[(len(r.took)*99+99)/100-1]
	}
	for r.Problem == "" && r.Asked < r.Limit+beyond {
		r.ask(time.Now())
	}
	probing.Wait()
	if sick != nil && r.Problem == "" {
		r.Problem = "health: " + sick.Error()
	}
}

// ask asks once. The wait counts from when the call was due.
func (r *runner) ask(due time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := r.client.ShouldAllow(ctx, &ratelimitv1.ShouldAllowRequest{Namespace: "innocent", Identifier: "alice", Policy: "default"}, grpc.WaitForReady(true))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took = append(r.took, time.Since(due))
	r.Asked++
	if answer.GetAllowed() {
		r.Allowed++
	}
	if err != nil && r.Problem == "" {
		r.Problem = fmt.Sprintf("call %d: %v", r.Asked, err)
	}
}

// probe asks for the health of the daemon, over HTTP with a connection of its own and
// over gRPC.
func (r *runner) probe() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := r.health.Check(ctx, &healthpb.HealthCheckRequest{})
	client := http.Client{Transport: r.link.HTTP(&http.Transport{DisableKeepAlives: true})}
	q, newErr := http.NewRequestWithContext(ctx, http.MethodGet, r.link.Scheme()+"://"+r.HTTP+"/healthz", http.NoBody)
	if newErr != nil {
		return newErr
	}
	answer, getErr := client.Do(q)
	if getErr == nil {
		_ = answer.Body.Close()
	}
	return errors.Join(err, getErr)
}
