package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi/envoytest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

// restartRate is how many requests a second clients send during the rolling restart. It
// is low enough for a loaded machine: what is counted does not depend on it.
const restartRate = 100

// send sends url restartRate requests a second until the test calls stop, which
// waits for all answers and returns how many were sent.
func send(t *testing.T, url string) (stop func() int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: restartRate}}
	ended, sent := make(chan struct{}), make(chan int)
	go func() {
		var under sync.WaitGroup
		n := 0
		tick := time.NewTicker(time.Second / restartRate)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				under.Wait()
				client.CloseIdleConnections()
				sent <- n
				return
			case <-tick.C:
			}
			n++
			under.Go(func() {
				reply, err := client.Get(url) //nolint:noctx // on loopback, and Envoy bounds it
				if err != nil {
					t.Error(err)
					return
				}
				_ = reply.Body.Close()
				if reply.StatusCode != http.StatusOK && reply.StatusCode != http.StatusTooManyRequests {
					t.Errorf("Envoy answers %s", reply.Status)
				}
			})
		}
	}()
	stop = sync.OnceValue(func() int { close(ended); return <-sent })
	t.Cleanup(func() { stop() })
	return stop
}

// patientEnvoy returns the example configuration of Envoy, but for the times that it
// waits: on a loaded machine they would end calls, connections and health checks that
// nothing is wrong with.
func patientEnvoy(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("envoy/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := envoytest.Edit(t, string(data), "timeout: 0.1s", "timeout: 20s", "max_interval: 0.1s", "max_interval: 20s", "- timeout: 1s", "- timeout: 20s")
	return strings.ReplaceAll(config, "connect_timeout: 1s", "connect_timeout: 20s")
}

// TestRollingRestart restarts two daemons behind the Envoy that operators copy, one
// after the other, while clients send requests. At most 5 calls of Envoy may fail:
// each of them is a request that no limit held.
func TestRollingRestart(t *testing.T) {
	binary := ratelimitd(t)
	limits := "--envoy-config-dir=" + absolute(t, "envoy/ratelimit")
	one, two := serve(t, binary, limits), serve(t, binary, limits)
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(service.Close)
	const daemon = "              - endpoint:\n                  address:\n                    socket_address: {address: 127.0.0.1, port_value: PORT}\n"
	endpoint := func(port string) string { return strings.Replace(daemon, "PORT", port, 1) }
	e := envoytest.Start(t, envoytest.Edit(t, patientEnvoy(t),
		"{address: 0.0.0.0, port_value: 10000}", "{address: 127.0.0.1, port_value: 0}",
		endpoint("8000"), endpoint(envoytest.PortOf(t, service.Listener.Addr().String())),
		endpoint("8081"), endpoint(envoytest.PortOf(t, one.grpc))+endpoint(envoytest.PortOf(t, two.grpc))))

	stop := send(t, e.URL)
	asked := func() int {
		n := 0
		for _, result := range []string{"ok", "over_limit", "error"} {
			n += e.Counter(t, "cluster.service.ratelimit."+result)
		}
		return n
	}
	enough := func(what string) { // of the calls, since the last step
		t.Helper()
		begin := asked()
		redistest.Eventually(t, what, func() error {
			if n := asked() - begin; n < restartRate/2 {
				return fmt.Errorf("only %d calls", n)
			}
			return nil
		})
	}
	daemons := []process{one, two}
	for i, p := range daemons {
		enough("calls before a daemon stops")
		p.stop()
		enough("calls while a daemon is away")
		daemons[i] = serve(t, binary, limits, "--grpc-addr="+p.grpc)
		redistest.Eventually(t, "a daemon is back", func() error {
			if !e.Healthy(t, p.grpc) {
				return errors.New("Envoy does not see it")
			}
			return nil
		})
	}
	enough("calls after the restart")
	sent := stop()
	if n := asked(); n != sent {
		t.Errorf("Envoy made %d calls for %d requests", n, sent)
	}
	failed := e.Counter(t, "cluster.service.ratelimit.error")
	t.Logf("%d of %d calls failed, %d were sent again", failed, sent, e.Counter(t, "cluster.ratelimitd.upstream_rq_retry"))
	if failed > 5 {
		t.Errorf("%d calls failed, want 5 at most: %s", failed, e.Stats(t, "ratelimit"))
	}

	// With all daemons gone, the example lets requests pass.
	for _, p := range daemons {
		p.stop()
	}
	send(t, e.URL)
	redistest.Eventually(t, "requests pass without a daemon", func() error {
		if n := e.Counter(t, "cluster.service.ratelimit.failure_mode_allowed"); n < failed+restartRate/2 {
			return fmt.Errorf("%d calls failed", n-failed)
		}
		return nil
	})
}

// TestQuickStart runs the commands of the quick start in docs/envoy.md, but on free
// ports, and with a patient Envoy.
func TestQuickStart(t *testing.T) {
	page, err := os.ReadFile("../docs/envoy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(page), "\n## Quick start\n")
	part, _, _ = strings.Cut(part, "\n## ")
	blocks := regexp.MustCompile("(?s)```(sh|text)\n(.*?)```").FindAllStringSubmatch(part, -1)
	if len(blocks) != 5 {
		t.Fatalf("the quick start has %d blocks, want 3 servers, a question and its answer", len(blocks))
	}

	dir := t.TempDir()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return envoytest.PortOf(t, l.Addr().String())
	}
	service, daemon, front := free(), free(), free()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o700)); err != nil { //nolint:gosec // some are programs
			t.Fatal(err)
		}
	}
	limits, err := os.ReadFile("envoy/ratelimit/edge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write("deploy/envoy/ratelimit/edge.yaml", string(limits))
	write("deploy/envoy/envoy.yaml", envoytest.Edit(t, patientEnvoy(t), "port_value: 10000", "port_value: "+front, "port_value: 8000", "port_value: "+service, "port_value: 8081", "port_value: "+daemon))
	write("bin/envoy", fmt.Sprintf("#!/bin/sh\nexec %q --use-dynamic-base-id --concurrency 1 \"$@\"\n", envoytest.Binary(t)))
	if err := os.Symlink(ratelimitd(t), filepath.Join(dir, "bin", "ratelimitd")); err != nil {
		t.Fatal(err)
	}
	shell := func(text string) *exec.Cmd {
		text = strings.NewReplacer("server 8000", "server "+service, ":10000", ":"+front, "/tmp/site", filepath.Join(dir, "site")).Replace(text)
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-euo", "pipefail", "-c", text)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "no_proxy=127.0.0.1",
			"RATELIMITD_GRPC_ADDR=127.0.0.1:"+daemon, "RATELIMITD_HTTP_ADDR=127.0.0.1:0", "RATELIMITD_ADMIN_ADDR=off")
		return cmd
	}
	for i, port := range []string{service, daemon, front} {
		cmd := shell(blocks[i][2])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		log := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // with what it started
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("%s%s", blocks[i][2], log)
			}
		})
		redistest.Eventually(t, "it listens: "+blocks[i][2], func() error {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port) //nolint:noctx // on loopback
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
	}
	if left := time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)); left < time.Minute {
		time.Sleep(left) // the logins of an hour are counted, and the next one is near
	}
	out, err := shell(blocks[3][2]).CombinedOutput()
	if got, want := strings.Fields(string(out)), strings.Fields(blocks[4][2]); err != nil || !slices.Equal(got, want) {
		t.Errorf("%sgot %s, %v, want %s", blocks[3][2], out, err, blocks[4][2])
	}
}
