package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

// freeAddr returns an address that nothing listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestNobodyReadsTheLog runs a daemon whose standard error is a pipe that is full,
// and one whose pipe is closed. Both serve, and both stop when they are told to.
func TestNobodyReadsTheLog(t *testing.T) {
	for name, closed := range map[string]bool{"full": false, "closed": true} {
		t.Run(name, func(t *testing.T) {
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			defer write.Close()
			addr, admin := freeAddr(t), freeAddr(t)
			cmd := process(t, nil, "serve", "--grpc-addr=127.0.0.1:0", "--http-addr="+addr, "--admin-addr="+admin, "--drain-timeout=2s")
			if closed {
				_ = read.Close()
			} else {
				fill(t, write)
			}
			cmd.Stderr = write
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			get := func(url string) string {
				var body []byte
				redistest.Eventually(t, url, func() error {
					answer, err := http.Get(url) //nolint:noctx // the process ends by itself
					if err != nil {
						return err
					}
					defer answer.Body.Close()
					body, err = io.ReadAll(answer.Body)
					return err
				})
				return string(body)
			}
			get("http://" + addr + "/healthz")
			for range 100 { // each is a line of the log
				request, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+admin+"/loglevel", strings.NewReader("info"))
				answer, err := http.DefaultClient.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				_ = answer.Body.Close()
			}
			if metrics := get("http://" + addr + "/metrics"); !strings.Contains(metrics, "ratelimitd_log_lines_lost_total ") || closed && strings.Contains(metrics, "ratelimitd_log_lines_lost_total 0\n") {
				t.Error("the metrics do not say how many lines are lost")
			}
			http.DefaultClient.CloseIdleConnections()
			start := time.Now()
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil || time.Since(start) > 20*time.Second {
				t.Errorf("it ends after %v: %v", time.Since(start), err)
			}
		})
	}
}

// fill fills a pipe.
func fill(t *testing.T, pipe *os.File) {
	t.Helper()
	for _, size := range []int{4096, 1} {
		for {
			if err := pipe.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := pipe.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
}

// TestErrorThatNobodyReads starts a daemon that cannot start, with a standard
// error that is full.
func TestErrorThatNobodyReads(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	fill(t, write)
	cmd := process(t, nil, "serve", "--grpc-addr=nowhere")
	cmd.Stderr = write
	start := time.Now()
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != exitError || time.Since(start) > 20*time.Second {
		t.Errorf("exit status %d after %v", code, time.Since(start))
	}
}
