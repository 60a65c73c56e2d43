package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// remoteStores are the flags of daemons on one store that they share, by its name. The
// deadline is for machines that are busy.
func remoteStores(t *testing.T) map[string][]string {
	return map[string][]string{
		"redis":     {"--store=redis", "--redis-url=" + redistest.Start(t).URL, "--store-timeout=5s", "--on-error=error"},
		"memcached": {"--store=memcached", "--memcached-addr=" + memcachedtest.Start(t).Addr, "--store-timeout=5s", "--on-error=error"},
	}
}

func clientOf(t *testing.T, at addresses) ratelimitv1.RateLimitServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(at.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return ratelimitv1.NewRateLimitServiceClient(conn)
}

// TestTwoDaemonsSettle has two daemons, each with all that stands before its store, settle
// the reservations of one another, many times at once.
func TestTwoDaemonsSettle(t *testing.T) {
	for name, flags := range remoteStores(t) {
		t.Run(name, func(t *testing.T) {
			one, _ := servesAt(t, nil, flags...)
			two, _ := servesAt(t, nil, flags...)
			daemons := [2]ratelimitv1.RateLimitServiceClient{clientOf(t, one), clientOf(t, two)}
			request := func(cost uint64) *ratelimitv1.ShouldAllowRequest {
				return &ratelimitv1.ShouldAllowRequest{
					Namespace: "llm", Identifier: "alice", Cost: &cost,
					Limits: []*ratelimitv1.Limit{{Rate: "1000/366d"}, {Rate: "1000/366d", Strategy: ratelimitv1.Strategy_SLIDING_WINDOW_LOG}},
				}
			}
			remaining := func() uint64 {
				t.Helper()
				out, err := daemons[0].ShouldAllow(t.Context(), request(0))
				if err != nil {
					t.Fatal(err)
				}
				if a, b := out.GetStatuses()[0].GetRemaining(), out.GetStatuses()[1].GetRemaining(); a != b {
					t.Fatalf("%d and %d remain", a, b)
				}
				return out.GetStatuses()[0].GetRemaining()
			}
			for i, actual := range []uint64{60, 0, 40, 1} { // of 40
				before := remaining()
				reserved, err := daemons[i%2].Reserve(t.Context(), &ratelimitv1.ReserveRequest{Request: request(40)})
				if err != nil || reserved.GetReservation() == nil || !reserved.GetResponse().GetAllowed() {
					t.Fatal(reserved, err)
				}
				var counted atomic.Int64
				var all sync.WaitGroup
				for j := range 20 {
					all.Go(func() {
						out, err := daemons[j%2].Commit(t.Context(), &ratelimitv1.CommitRequest{Reservation: reserved.GetReservation(), Actual: actual})
						if err != nil {
							t.Error(err)
						} else if !out.GetRepeated() {
							counted.Add(1)
						}
					})
				}
				all.Wait()
				if n, used := counted.Load(), before-remaining(); n != 1 || used != actual {
					t.Errorf("%d commits have counted, and %d units are used, want 1 and %d", n, used, actual)
				}
				if _, err := daemons[0].Cancel(t.Context(), &ratelimitv1.CancelRequest{Reservation: reserved.GetReservation()}); err != nil {
					t.Error(err)
				}
				if used := before - remaining(); used != actual {
					t.Errorf("a cancel after the commit leaves %d units used, want %d", used, actual)
				}
			}

			// What is denied from memory is free at once when a reservation is cancelled.
			reserved, err := daemons[0].Reserve(t.Context(), &ratelimitv1.ReserveRequest{Request: request(remaining())})
			if err != nil {
				t.Fatal(err)
			}
			take := func() bool {
				out, err := daemons[0].ShouldAllow(t.Context(), request(1))
				if err != nil {
					t.Fatal(err)
				}
				return out.GetAllowed()
			}
			for range 2 { // the second from memory
				if take() {
					t.Error("allowed, though all is reserved")
				}
			}
			if _, err := daemons[0].Cancel(t.Context(), &ratelimitv1.CancelRequest{Reservation: reserved.GetReservation()}); err != nil {
				t.Fatal(err)
			}
			if !take() {
				t.Error("denied, though the reservation was cancelled")
			}
			if denied, err := daemons[0].Reserve(t.Context(), &ratelimitv1.ReserveRequest{Request: request(1001)}); err != nil || denied.GetReservation() != nil || denied.GetResponse().GetAllowed() {
				t.Errorf("%v, %v: want it denied, without an id", denied, err)
			}
			metrics := page(t, "http://"+one.HTTP+"/metrics")
			if strings.Contains(metrics, "once") {
				t.Error("the counter that lets a reservation be settled once is a label")
			}
		})
	}
}

// TestManySettlementsLeaveRoom has an identifier settle more reservations than memcached
// has room for. Its other limits go on.
func TestManySettlementsLeaveRoom(t *testing.T) {
	at, _ := servesAt(t, nil, remoteStores(t)["memcached"]...)
	daemon := clientOf(t, at)
	request := &ratelimitv1.ShouldAllowRequest{Namespace: "llm", Identifier: "alice", Limits: []*ratelimitv1.Limit{{Rate: "100000/366d"}}}
	const n = 1100
	for i := range n {
		reserved, err := daemon.Reserve(t.Context(), &ratelimitv1.ReserveRequest{Request: request})
		if err != nil {
			t.Fatal(err)
		}
		for _, again := range []bool{false, true} {
			out, err := daemon.Commit(t.Context(), &ratelimitv1.CommitRequest{Reservation: reserved.GetReservation(), Actual: 2})
			if err != nil || out.GetRepeated() != again {
				t.Fatalf("commit %d: %v, %v", i, out, err)
			}
		}
	}
	out, err := daemon.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "llm", Identifier: "alice", Limits: []*ratelimitv1.Limit{request.Limits[0], {Rate: "9/h"}}})
	if err != nil || !out.GetAllowed() || out.GetStatuses()[0].GetRemaining() != 100_000-2*n-1 {
		t.Errorf("%v, %v", out, err)
	}
}

func page(t *testing.T, url string) string {
	t.Helper()
	reply, err := http.Get(url) //nolint:gosec,noctx // it is our own daemon's
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestReserveHTTP reserves and settles over HTTP, with the names and the errors of gRPC.
func TestReserveHTTP(t *testing.T) {
	at, _ := servesAt(t, nil, "--reservation-ttl=1s")
	post := func(path, body string) (int, string) {
		t.Helper()
		reply, err := http.Post("http://"+at.HTTP+path, "", bytes.NewReader([]byte(body))) //nolint:noctx // as above
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		text, _ := io.ReadAll(reply.Body)
		return reply.StatusCode, strings.ReplaceAll(string(text), " ", "")
	}
	reserve := func() string {
		t.Helper()
		code, text := post("/v1/reserve", `{"request": {"namespace": "llm", "identifier": "alice", "limits": [{"rate": "1000/366d", "strategy": "fixed_window"}], "cost": 400}}`)
		var out ratelimitv1.ReserveResponse
		if err := protojson.Unmarshal([]byte(text), &out); err != nil || code != 200 {
			t.Fatal(code, text, err)
		}
		return base64.StdEncoding.EncodeToString(out.GetReservation())
	}
	first, old := reserve(), reserve()
	for _, step := range []struct {
		path, body string
		code       int
		want       string
	}{
		{"/v1/commit", fmt.Sprintf(`{"reservation": %q, "actual": "250"}`, first), 200, `"remaining":"350"`},
		{"/v1/commit", fmt.Sprintf(`{"reservation": %q, "actual": "250"}`, first), 200, `"repeated":true`},
		{"/v1/cancel", fmt.Sprintf(`{"reservation": %q}`, first), 200, `{}`},
		{"/v1/commit", `{"reservation": "AAAA"}`, 400, `reservation:`},
		{"/v1/commit", `{}`, 400, `reservation:`},
		{"/v1/reserve", `{"request": {"namespace": "llm", "identifier": "a", "limits": [{"rate": "1/h"}], "mode": "charge"}}`, 400, `request.mode`},
		{"/v1/reserve", `{"request": {"namespace": "", "identifier": "a", "limits": [{"rate": "1/h"}]}}`, 400, `request.namespace`},
		{"/v1/reserve", `{"request": {"namespace": "llm", "identifier": "a", "limits": [{"rate": "0/h"}]}}`, 200, `"reservation":""`},
		{"/v1/should-allow", `{"requests": [{"namespace": "llm", "identifier": "alice", "limits": [{"rate": "1000/366d"}], "cost": 350}, {"namespace": "llm"}]}`, 200, `"remaining":"0"`},
		{"/v1/should-allow", `{"requests": []}`, 400, `send1to1000`},
		{"/v1/reset", `{"namespace": "llm", "identifier": "alice", "limits": [{"rate": "1000/366d"}]}`, 200, `{}`},
		{"/v1/should-allow", `{"namespace": "llm", "identifier": "alice", "limits": [{"rate": "1000/366d"}], "cost": 0}`, 200, `"remaining":"1000"`},
	} {
		if code, text := post(step.path, step.body); code != step.code || !strings.Contains(text, step.want) {
			t.Errorf("%s %s: %d %s, want %d with %s", step.path, step.body, code, text, step.code, step.want)
		}
	}
	id, err := base64.StdEncoding.DecodeString(old)
	if err != nil {
		t.Fatal(err)
	}
	daemon := clientOf(t, at)
	redistest.Eventually(t, "the reservation expires", func() error {
		_, err := daemon.Commit(t.Context(), &ratelimitv1.CommitRequest{Reservation: id, Actual: 400})
		if status.Code(err) != codes.FailedPrecondition {
			return fmt.Errorf("not expired yet: %w", err)
		}
		return nil
	})
	if code, text := post("/v1/commit", fmt.Sprintf(`{"reservation": %q, "actual": 1}`, old)); code != http.StatusGone || !strings.Contains(text, "expired") {
		t.Errorf("%d %s, want 410", code, text)
	}
	_, err = daemon.Reserve(t.Context(), &ratelimitv1.ReserveRequest{Request: &ratelimitv1.ShouldAllowRequest{Namespace: "a", Identifier: "b", Limits: []*ratelimitv1.Limit{{Rate: "1/h"}}, Mode: ratelimitv1.Mode_REFUND}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "request.mode") {
		t.Errorf("%v, want request.mode refused", err)
	}
}

// TestReserveCommand reserves and settles as a shell does.
func TestReserveCommand(t *testing.T) {
	at, _ := servesAt(t, nil)
	who := []string{"--addr", at.GRPC, "--namespace=llm", "--identifier=alice", "--rate=1000/366d"}
	reserve := func(cost string) (string, string, int) {
		return runs(t, nil, append([]string{"reserve", "--cost=" + cost}, who...)...)
	}
	id, stderr, code := reserve("400")
	if code != exitOK || stderr != "" {
		t.Fatal(id, stderr, code)
	}
	id = strings.TrimSpace(id)
	for _, step := range []struct {
		actual string
		code   int
		stderr string
	}{{"1200", exitNo, ""}, {"1200", exitNo, "settled before"}} {
		stdout, stderr, code := runs(t, nil, "commit", "--addr", at.GRPC, "--reservation", id, "--actual="+step.actual)
		if code != step.code || !strings.Contains(stderr, step.stderr) {
			t.Errorf("%q, %q, %d; want %+v", stdout, stderr, code, step)
		}
	}
	if stdout, stderr, code := reserve("1"); code != exitNo || stdout != "" || !strings.Contains(stderr, "denied") {
		t.Errorf("%q, %q, %d", stdout, stderr, code)
	}
	for _, wrong := range []string{"nonsense!", "AAAA"} {
		if stdout, stderr, code := runs(t, nil, "commit", "--addr", at.GRPC, "--reservation", wrong); code != exitError || !strings.Contains(stderr, "reservation") {
			t.Errorf("%q, %q, %d", stdout, stderr, code)
		}
	}
}
