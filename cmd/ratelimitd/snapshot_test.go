package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// snapshotRate has a window so long that none ends in a test.
const snapshotRate = "1000000/366d"

// A countedCall says when a call was answered that consumed one unit.
type countedCall struct {
	id string
	at time.Time
}

// countUntil charges identifiers from several callers until the daemon is gone.
// It returns what was answered, and what was sent by identifier.
func countUntil(t *testing.T, at addresses, gone <-chan struct{}) (answered []countedCall, sent map[string]int) {
	t.Helper()
	client := clientOf(t, at)
	sent = map[string]int{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for c := range 4 {
		asking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-gone:
					return
				default:
				}
				id := fmt.Sprint(c, " ", i%5)
				mu.Lock()
				sent[id]++
				mu.Unlock()
				answer, err := client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "kill", Identifier: id, Limits: []*ratelimitv1.Limit{{Rate: snapshotRate}}})
				if err != nil {
					return // it is gone
				}
				if !answer.GetAllowed() {
					t.Errorf("%s: %v", id, answer)
				}
				mu.Lock()
				answered = append(answered, countedCall{id, time.Now()})
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	return answered, sent
}

// inSnapshot returns when a snapshot was taken, and what is used there by each of ids.
func inSnapshot(t *testing.T, file string, ids []string) (taken time.Time, used map[string]int) {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, copied, string(data))
	var log bytes.Buffer
	s, err := memory.New(memory.Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Keep(memory.Snapshots{File: copied, Interval: time.Hour}); err != nil {
		t.Fatal(err)
	}
	var line struct {
		Msg   string
		Taken time.Time
	}
	if err := json.Unmarshal(log.Bytes(), &line); err != nil || line.Msg != "the counters of a snapshot are restored" {
		t.Fatalf("%v: %s", err, &log)
	}
	l, _ := strategy.NewLimit(strategy.Spec{Rate: snapshotRate}, strategy.DefaultMaxLogCount)
	used = map[string]int{}
	for _, id := range ids {
		results := make([]store.Result, 1)
		s.Decide(t.Context(), []store.Request{{Namespace: "kill", Identifier: id, Limits: []strategy.Limit{l}}}, results)
		st := results[0].Statuses[0]
		used[id] = int(st.Limit - st.Remaining)
	}
	return line.Taken, used
}

// TestKilledAtAnyMoment kills a daemon with SIGKILL, again and again, while it counts
// and writes snapshots. What it has after a restart is the last complete snapshot, and
// that has all that was answered before it was taken.
func TestKilledAtAnyMoment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "counters")
	const interval = 20 * time.Millisecond
	var ids []string
	for c := range 4 {
		for i := range 5 {
			ids = append(ids, fmt.Sprint(c, " ", i))
		}
	}
	base, taken := map[string]int{}, time.Time{}
	newer := 0
	for round := range 8 {
		cmd, addr, log := startLogged(t, nil, "--memory-snapshot="+file, "--memory-snapshot-interval="+interval.String())
		if round > 0 && !strings.Contains(log(), "the counters of a snapshot are restored") {
			t.Fatalf("round %d: nothing is restored:\n%s", round, log())
		}
		client := clientOf(t, addr)
		for _, id := range ids {
			answer, err := client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "kill", Identifier: id, Limits: []*ratelimitv1.Limit{{Rate: snapshotRate}}, Cost: new(uint64)})
			if err != nil {
				t.Fatal(err)
			}
			if st := answer.GetStatuses()[0]; int(st.GetLimit()-st.GetRemaining()) != base[id] {
				t.Fatalf("round %d: %s has %d used after a restart, and the file had %d", round, id, st.GetLimit()-st.GetRemaining(), base[id])
			}
		}
		gone := make(chan struct{})
		patience := time.Duration(rand.Int64N(int64(400 * time.Millisecond)))
		if round == 0 {
			redistest.Eventually(t, "a first snapshot", func() error { _, err := os.Stat(file); return err })
		}
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); close(gone) })
		answered, sent := countUntil(t, addr, gone)
		<-gone
		timer.Stop()

		now, used := inSnapshot(t, file, ids)
		if now.Equal(taken) { // there was no time for another
			for _, id := range ids {
				if used[id] != base[id] {
					t.Fatalf("round %d: the file has changed: %s has %d used, and not %d", round, id, used[id], base[id])
				}
			}
			continue
		}
		newer++
		before := map[string]int{}
		for _, a := range answered {
			if a.at.Before(now) {
				before[a.id]++
			}
		}
		for _, id := range ids {
			if least, most := base[id]+before[id], base[id]+sent[id]; used[id] < least || used[id] > most {
				t.Fatalf("round %d: %s has %d used in the snapshot of %v, want %d to %d", round, id, used[id], now, least, most)
			}
		}
		base, taken = used, now
	}
	if newer < 2 {
		t.Errorf("only %d rounds had a snapshot of their own", newer)
	}
}

// TestRestartKeepsAll stops a daemon as an operator does.
func TestRestartKeepsAll(t *testing.T) {
	file := filepath.Join(t.TempDir(), "counters")
	serve := func() (addr string, stop func() int) {
		at, stop := servesAt(t, nil, "--memory-snapshot="+file, "--memory-snapshot-interval=1h")
		return at.GRPC, stop
	}
	addr, stop := serve()
	for range 3 {
		if _, stderr, status := runs(t, nil, "check", "--addr", addr, "--namespace=a", "--identifier=b", "--rate=3/366d"); status != exitOK {
			t.Fatal(stderr)
		}
	}
	reserved, stderr, status := runs(t, nil, "reserve", "--addr", addr, "--namespace=a", "--identifier=c", "--rate=10/366d", "--cost=6")
	if status != exitOK {
		t.Fatal(stderr)
	}
	if status := stop(); status != exitOK {
		t.Fatalf("exit status %d", status)
	}
	addr, _ = serve()
	if stdout, _, status := runs(t, nil, "check", "--addr", addr, "--namespace=a", "--identifier=b", "--rate=3/366d"); status != exitNo {
		t.Errorf("a caller that was denied is allowed after a restart: %s", stdout)
	}
	// A reservation is known too, as what signs it is kept.
	if stdout, stderr, status := runs(t, nil, "commit", "--addr", addr, "--reservation="+strings.TrimSpace(reserved), "--actual=2"); status != exitOK || !strings.Contains(stdout, "8 of 10 left") {
		t.Errorf("commit: %s%s\nof %s", stdout, stderr, reserved)
	}
}

// TestSnapshotFolderMustBeWritable starts a daemon that may not write where it should, and
// one whose file another has.
func TestSnapshotFolderMustBeWritable(t *testing.T) {
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, "counters.tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil { // whoever runs the tests may write everywhere
		t.Fatal(err)
	}
	file := filepath.Join(dir, "counters")
	_, stderr, status := inProcess(t, "serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=off", "--memory-snapshot="+file)
	if status != exitError || !strings.Contains(stderr, `ratelimitd: --memory-snapshot: snapshots of the counters cannot be written to "`+dir+`"`) {
		t.Errorf("exit status %d, %s", status, stderr)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	servesAt(t, nil, "--memory-snapshot="+file)
	_, stderr, status = inProcess(t, "serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=off", "--memory-snapshot="+file)
	if status != exitError || !strings.Contains(stderr, "another process keeps its counters in") {
		t.Errorf("exit status %d, %s", status, stderr)
	}
}

// TestSnapshotOnAFullDisk gives a daemon no room for a file of more than some kilobytes.
func TestSnapshotOnAFullDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "counters")
	as := process(t, nil, "serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=off", "--log-format=json", "--memory-snapshot="+file, "--memory-snapshot-interval=50ms")
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `ulimit -f 64; exec "$0" "$@"`}, as.Args...)...) //nolint:gosec // it is this program
	cmd.Env = as.Env
	d := startLoggedAs(t, cmd)
	client := clientOf(t, d.addresses)
	charge := func(from, to int) {
		for i := from; i < to; i++ {
			if _, err := client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "kill", Identifier: fmt.Sprint(i), Limits: []*ratelimitv1.Limit{{Rate: snapshotRate}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	charge(0, 10)
	redistest.Eventually(t, "a snapshot with the first", func() error {
		if info, err := os.Stat(file); err != nil || info.Size() < 1300 {
			return fmt.Errorf("%v %w", info, os.ErrNotExist)
		}
		return nil
	})
	charge(10, 3000)
	d.logged(t, "no snapshot of the counters could be written")
	d.logged(t, "file too large")
	if _, used := inSnapshot(t, file, []string{"0", "9"}); used["0"] != 1 || used["9"] != 1 {
		t.Errorf("the last complete snapshot is not there: %v", used)
	}
	if _, err := client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "kill", Identifier: "0", Limits: []*ratelimitv1.Limit{{Rate: snapshotRate}}}); err != nil {
		t.Errorf("it does not decide any more: %v", err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
}
