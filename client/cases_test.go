//go:build unix

package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/clienttest"
)

// The cases of clients/cases.json: clients/README.md says what the fields mean.
type (
	caseFile struct{ Cases []testCase }
	testCase struct {
		Name    string
		Flags   []string
		Clock   string
		Client  clientOf
		Limiter struct {
			Namespace, Policy string
			Limits            []struct {
				Rate, Strategy, Name string
				Burst                uint64
				MaxDebt              *uint64 `json:"max_debt"`
			}
		}
		Steps []step
	}
	clientOf struct {
		OnFailure string `json:"on_failure"`
		TimeoutMS int    `json:"timeout_ms"`
		Remember  bool
		Token     string
		TLS       *struct{ CA, Cert, Key string }
	}
	step struct {
		Do, Identifier, By, To, Save, Reservation string

		Exempt          bool
		IdentifierTimes int    `json:"identifier_times"`
		ConsumedAt      string `json:"consumed_at"`
		Cost            *uint64
		Actual          uint64
		Times           int
		Callers, Each   int
		MaxMS           int `json:"max_ms"`
		CancelAfterMS   int `json:"cancel_after_ms"`
		EventuallyMS    int `json:"eventually_ms"`
		Want            map[string]any
	}
)

var strategies = map[string]client.Strategy{
	"FIXED_WINDOW": client.FixedWindow, "SLIDING_WINDOW_COUNTER": client.SlidingWindowCounter, "SLIDING_WINDOW_LOG": client.SlidingWindowLog,
	"TOKEN_BUCKET": client.TokenBucket, "LEAKY_BUCKET": client.LeakyBucket, "GCRA": client.GCRA,
}

const testdata = "../clients/testdata"

// TestCases runs the cases that the clients of all languages run, with messages of many
// calls and with calls that go alone.
func TestCases(t *testing.T) {
	text, err := os.ReadFile("../clients/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var file caseFile
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(testdata, "make-certificates.sh")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i := range file.Cases {
		for _, unary := range []bool{false, true} {
			name := file.Cases[i].Name + map[bool]string{true: ", alone"}[unary]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				file.Cases[i].run(t, unary)
			})
		}
	}
}

func (c *testCase) run(t *testing.T, unary bool) {
	flags := slices.Clone(c.Flags)
	dir, err := filepath.Abs(testdata)
	if err != nil {
		t.Fatal(err)
	}
	d := clienttest.Run(t, clienttest.Options{Flags: flags, Dir: dir, RealClock: c.Clock == "real"})
	o := c.Client.options(t, d)
	o.Unary = unary
	limits, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer limits.Close()
	r := &runner{t: t, daemon: d, limiter: limits.Policy(c.Limiter.Namespace, c.Limiter.Policy), results: map[string]client.Result{}, reservations: map[string]*client.Reservation{}}
	if c.Limiter.Policy == "" {
		var all []client.Limit
		for _, l := range c.Limiter.Limits {
			all = append(all, client.Limit{Rate: l.Rate, Strategy: strategies[l.Strategy], Burst: l.Burst, Name: l.Name, MaxDebt: l.MaxDebt})
		}
		r.limiter = limits.Limiter(c.Limiter.Namespace, all...)
	}
	for i := range c.Steps {
		r.step(i, &c.Steps[i])
	}
}

func (c *clientOf) options(t *testing.T, d *clienttest.Daemon) client.Options {
	o := client.Options{Addresses: []string{d.GRPC}, Token: c.Token, Timeout: patience, MaxDenials: -1, Logger: slog.New(slog.DiscardHandler)}
	if c.TimeoutMS > 0 {
		o.Timeout = time.Duration(c.TimeoutMS) * time.Millisecond
	}
	if c.OnFailure == "deny" {
		o.OnFailure = client.Deny
	}
	if c.Remember {
		o.MaxDenials = 0
	}
	if c.TLS != nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
		if c.TLS.CA != "" {
			pem, err := os.ReadFile(filepath.Join(testdata, c.TLS.CA))
			if err != nil {
				t.Fatal(err)
			}
			o.TLS.RootCAs = x509.NewCertPool()
			o.TLS.RootCAs.AppendCertsFromPEM(pem)
		}
		if c.TLS.Cert != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(testdata, c.TLS.Cert), filepath.Join(testdata, c.TLS.Key))
			if err != nil {
				t.Fatal(err)
			}
			o.TLS.Certificates = []tls.Certificate{pair}
		}
	}
	return o
}

type runner struct {
	t            *testing.T
	daemon       *clienttest.Daemon
	limiter      *client.Limiter
	results      map[string]client.Result
	reservations map[string]*client.Reservation
}

func (r *runner) step(i int, s *step) {
	for range max(1, s.Times) {
		end := time.Now().Add(time.Duration(s.EventuallyMS) * time.Millisecond)
		for {
			began := time.Now()
			result, allowed, denied := r.do(s)
			wrong := s.wrong(&result, allowed, denied, time.Since(began))
			if wrong == nil {
				break
			}
			if time.Now().After(end) {
				r.t.Fatalf("step %d, %s: %v in %+v", i, s.Do, wrong, result)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// do does what a step says. The counts are those of a race.
func (r *runner) do(s *step) (result client.Result, allowed, denied int64) {
	identifier := strings.Repeat(s.Identifier, max(1, s.IdentifierTimes))
	if s.Exempt {
		identifier = client.Exempt
	}
	ctx := r.t.Context()
	if s.CancelAfterMS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer time.AfterFunc(time.Duration(s.CancelAfterMS)*time.Millisecond, cancel).Stop()
	}
	var cost []uint64
	given := uint64(1)
	if s.Cost != nil {
		cost, given = []uint64{*s.Cost}, *s.Cost
	}
	l := r.limiter
	switch s.Do {
	case "allow":
		result = l.Allow(ctx, identifier, cost...)
	case "check":
		result = l.Check(ctx, identifier, cost...)
	case "charge":
		result = l.Charge(ctx, identifier, given)
	case "refund":
		result = l.Refund(ctx, identifier, given, r.results[s.ConsumedAt].DecidedAt)
	case "reserve":
		made := l.Reserve(ctx, identifier, given)
		r.reservations[s.Save], result = made, made.Result
	case "commit":
		result = r.reservations[s.Reservation].Commit(ctx, s.Actual)
	case "cancel":
		result.Err = r.reservations[s.Reservation].Cancel(ctx)
	case "reset":
		result.Err = l.Reset(ctx, identifier)
	case "wait":
		result = l.Wait(ctx, identifier, time.Duration(s.MaxMS)*time.Millisecond, cost...)
	case "race":
		return r.race(s, identifier, cost)
	case "advance":
		by, err := time.ParseDuration(s.By)
		if err != nil {
			r.t.Fatal(err)
		}
		r.daemon.Advance(r.t, by)
	case "daemon":
		r.turn(s.To)
	default:
		r.t.Fatalf("a step does %q", s.Do)
	}
	if s.Save != "" {
		r.results[s.Save] = result
	}
	return result, 0, 0
}

func (r *runner) turn(to string) {
	var err error
	switch to {
	case "kill":
		r.daemon.Kill()
	case "stop":
		r.daemon.Stop()
	case "start":
		r.daemon.Restart(r.t)
	case "pause":
		err = r.daemon.Signal(syscall.SIGSTOP)
	case "resume":
		err = r.daemon.Signal(syscall.SIGCONT)
	default:
		r.t.Fatalf("a daemon is to %q", to)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// race has many callers ask at the same time. The result is one that has an error, if any
// has.
func (r *runner) race(s *step, identifier string, cost []uint64) (result client.Result, allowed, denied int64) {
	var yes, no atomic.Int64
	var failed atomic.Pointer[client.Result]
	var callers sync.WaitGroup
	start := make(chan struct{})
	for range s.Callers {
		callers.Go(func() {
			<-start
			for range s.Each {
				one := r.limiter.Allow(r.t.Context(), identifier, cost...)
				if one.Err != nil {
					failed.Store(&one)
				}
				if one.Allowed {
					yes.Add(1)
				} else {
					no.Add(1)
				}
			}
		})
	}
	close(start)
	callers.Wait()
	if one := failed.Load(); one != nil {
		result = *one
	}
	return result, yes.Load(), no.Load()
}

// wrong returns what of a result is not as a step wants it.
func (s *step) wrong(result *client.Result, allowed, denied int64, took time.Duration) error {
	got := map[string]any{
		"allowed": result.Allowed, "reason": result.Reason.String(), "delay_us": micros(result.Delay), "remembered": result.Remembered,
		"retry_after_us": micros(result.RetryAfter), "allowed_count": float64(allowed), "denied_count": float64(denied),
	}
	for field, want := range s.Want {
		switch field {
		case "error":
			if code := codeOf(result.Err); code != want && !oneOf(want, code) {
				return fmt.Errorf("%s: %w, want %v", field, result.Err, want)
			}
		case "error_has":
			if result.Err == nil || !strings.Contains(result.Err.Error(), want.(string)) {
				return fmt.Errorf("%s: %w, want %v", field, result.Err, want)
			}
		case "statuses":
			if err := wrongStatuses(result.Statuses, want.([]any)); err != nil {
				return err
			}
		case "within_ms", "at_least_ms":
			if bound := time.Duration(want.(float64) * float64(time.Millisecond)); (field == "within_ms") == (took > bound) {
				return fmt.Errorf("%s: it took %v, want %v", field, took, bound)
			}
		default:
			if value, known := got[field]; !known || !reflect.DeepEqual(value, want) {
				return fmt.Errorf("%s: %v, want %v", field, value, want)
			}
		}
	}
	return nil
}

func wrongStatuses(statuses []client.Status, want []any) error {
	if len(statuses) != len(want) {
		return fmt.Errorf("%d statuses, want %d", len(statuses), len(want))
	}
	for i, st := range statuses {
		got := map[string]any{
			"name": st.Name, "limit": float64(st.Limit), "remaining": float64(st.Remaining), "allowed": st.Allowed,
			"reset_after_us": micros(st.ResetAfter), "retry_after_us": micros(st.RetryAfter),
		}
		for field, value := range want[i].(map[string]any) {
			if !reflect.DeepEqual(got[field], value) {
				return fmt.Errorf("statuses[%d].%s: %v, want %v", i, field, got[field], value)
			}
		}
	}
	return nil
}

// micros returns d in microseconds, as JSON has it; nil for Never.
func micros(d time.Duration) any {
	if d == client.Never {
		return nil
	}
	return float64(d.Microseconds())
}

// codeOf returns the name of an error's gRPC code, as the API has it; nil for no error.
func codeOf(err error) any {
	code := status.Code(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled) || code == codes.Canceled:
		return "CANCELLED"
	case errors.Is(err, context.DeadlineExceeded):
		return "DEADLINE_EXCEEDED"
	}
	name, _ := map[codes.Code]string{
		codes.InvalidArgument: "INVALID_ARGUMENT", codes.NotFound: "NOT_FOUND", codes.Unavailable: "UNAVAILABLE", codes.DeadlineExceeded: "DEADLINE_EXCEEDED",
		codes.Unauthenticated: "UNAUTHENTICATED", codes.PermissionDenied: "PERMISSION_DENIED",
	}[code]
	return name
}

func oneOf(want, code any) bool {
	list, _ := want.([]any)
	return slices.Contains(list, code)
}
