package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/client/clienttest"
)

// start builds a program of source, and runs it with env until the test ends. It returns
// once url answers.
func start(t *testing.T, source, url string, env ...string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "service")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// freeAddr returns an address of loopback on which nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// wants fails the test unless a request is answered with a status.
func wants(t *testing.T, status int, method, url string, key ...string) (http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if len(key) > 0 {
		r.Header.Set("X-API-Key", key[0])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != status {
		t.Errorf("%s %s: %d %s, want %d", method, url, response.StatusCode, body, status)
	}
	return response.Header, string(body)
}

func TestShop(t *testing.T) {
	d := clienttest.Start(t)
	addr := freeAddr(t)
	url := "http://" + addr
	start(t, ".", url, "RATELIMITD_ADDR="+d.GRPC, "RATELIMITD_TIMEOUT=1m", "SHOP_ADDR="+addr)
	for range 5 {
		wants(t, http.StatusOK, "GET", url+"/healthz")
		wants(t, http.StatusOK, "GET", url+"/products")
	}
	for range 3 {
		wants(t, http.StatusCreated, "POST", url+"/orders", "one")
	}
	headers, _ := wants(t, http.StatusTooManyRequests, "POST", url+"/orders", "one")
	if headers.Get("Retry-After") == "" {
		t.Errorf("a denial says %v", headers)
	}
	wants(t, http.StatusCreated, "POST", url+"/orders", "two")
	for range 6 { // of which each reserves 250 words, and takes 150 of 1,000
		wants(t, http.StatusOK, "GET", url+"/report?words=250", "one")
	}
	wants(t, http.StatusTooManyRequests, "GET", url+"/report?words=250", "one")
	d.Advance(t, 24*time.Hour)
	wants(t, http.StatusOK, "GET", url+"/report?words=250", "one")
}

// TestREADME runs the program with which the page of the client begins, as it is there but
// for the addresses, and with time for a busy machine.
func TestREADME(t *testing.T) {
	page, err := os.ReadFile("../../client/README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("the page has no program")
	}
	d, addr := clienttest.Start(t), freeAddr(t)
	source := strings.NewReplacer(`"localhost:8081"}`, fmt.Sprintf("%q}, Timeout: 60e9", d.GRPC), `":8000"`, fmt.Sprintf("%q", addr)).Replace(string(block[1]))
	dir, err := os.MkdirTemp(".", "testdata-") //nolint:usetesting // within the module, or else it would not build
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "http://" + addr
	start(t, "./"+dir, url)
	for range 100 {
		wants(t, http.StatusOK, "GET", url)
	}
	if _, body := wants(t, http.StatusTooManyRequests, "GET", url); !strings.Contains(body, "quota-exceeded") {
		t.Errorf("a denial says %s", body)
	}
	d.Advance(t, time.Minute)
	time.Sleep(1100 * time.Millisecond) // as long as the client remembers the denial
	wants(t, http.StatusOK, "GET", url)
}
