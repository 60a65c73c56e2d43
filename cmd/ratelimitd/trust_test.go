package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A loggedDaemon is "ratelimitd serve" whose log is kept.
type loggedDaemon struct {
	addresses
	process *os.Process
	file    string
}

// log returns what it has logged.
func (d *loggedDaemon) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(d.file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// awaitServing waits until it serves, and sets its addresses.
func (d *loggedDaemon) awaitServing(t *testing.T) {
	t.Helper()
	redistest.Eventually(t, "the daemon serves", func() error {
		for line := range strings.Lines(d.log(t)) {
			var entry struct {
				Msg string
				addresses
			}
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" {
				d.addresses = entry.addresses
				return nil
			}
		}
		return errors.New("it does not serve yet")
	})
}

// hangUp has it read its files at once.
func (d *loggedDaemon) hangUp(t *testing.T) {
	t.Helper()
	if err := d.process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// servesLogged runs "ratelimitd serve" on free ports until the test ends.
func servesLogged(t *testing.T, flags ...string) *loggedDaemon {
	t.Helper()
	return startLoggedAs(t, process(t, nil, append([]string{"serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--log-format=json"}, flags...)...))
}

// startLoggedAs is servesLogged for a command whose log is JSON.
func startLoggedAs(t *testing.T, cmd *exec.Cmd) *loggedDaemon {
	t.Helper()
	d := &loggedDaemon{file: filepath.Join(t.TempDir(), "log")}
	file, err := os.Create(d.file)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.process = cmd.Process
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // the end of the test's context may have killed it
		_ = file.Close()
	})
	d.awaitServing(t)
	return d
}

// logged waits until the log has text.
func (d *loggedDaemon) logged(t *testing.T, text string) {
	t.Helper()
	redistest.Eventually(t, "the log has "+text, func() error {
		if log := d.log(t); !strings.Contains(log, text) {
			return fmt.Errorf("it has not:\n%s", log)
		}
		return nil
	})
}

// serial returns the serial number of the certificate that a port shows.
func serial(addr string, c *tls.Config) (string, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, c)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// fetchTLS returns a page.
func fetchTLS(t *testing.T, url string, c *tls.Config) (string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
	reply, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	return string(text), err
}

// TestCertificateComesAndChanges starts a daemon before there is a certificate, gives
// it one, then bad ones, and then, under load, others. No call is lost.
func TestCertificateComesAndChanges(t *testing.T) {
	own := authtest.NewAuthority(t, "servers")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	d := servesLogged(t, "--tls-cert="+cert, "--tls-key="+key)
	if _, err := serial(d.GRPC, own.Client(t, nil)); err == nil {
		t.Fatal("a handshake without a certificate")
	}
	d.logged(t, "a TLS handshake is refused: there is no certificate yet")
	d.logged(t, "there is no TLS certificate yet, so every handshake fails")

	first := own.Issue(t, "127.0.0.1")
	first.Write(t, dir)
	shows := func(p authtest.Pair) {
		t.Helper()
		want := p.Leaf(t).SerialNumber.String()
		redistest.Eventually(t, "the certificate is shown", func() error {
			for _, addr := range []string{d.GRPC, d.HTTP} {
				if got, err := serial(addr, own.Client(t, nil)); err != nil || got != want {
					return fmt.Errorf("%s shows %s, %w, want %s", addr, got, err, want)
				}
			}
			return nil
		})
	}
	shows(first)

	// A key of another certificate, what is no certificate, and one that has expired.
	expired := own.IssueUntil(t, time.Now().Add(-time.Minute), "127.0.0.1")
	for i, bad := range []authtest.Pair{{Cert: first.Cert, Key: own.Issue(t, "a").Key}, {Cert: []byte("none"), Key: first.Key}, expired} {
		authtest.Write(t, cert, bad.Cert)
		authtest.Write(t, key, bad.Key)
		d.hangUp(t)
		redistest.Eventually(t, "the pair is refused", func() error {
			if n := strings.Count(d.log(t), "the files of TLS are refused and the old certificate stays in force"); n < i+1 {
				return fmt.Errorf("%d lines", n)
			}
			return nil
		})
		shows(first)
	}
	metrics, err := fetchTLS(t, "https://"+d.HTTP+"/metrics", own.Client(t, nil))
	if want := fmt.Sprintf("ratelimitd_tls_certificate_expiry_timestamp_seconds %v", float64(first.Leaf(t).NotAfter.Unix())); err != nil || !strings.Contains(metrics, want+"\n") || !strings.Contains(metrics, `ratelimitd_tls_reloads_total{result="refused"} `) {
		t.Errorf("%v; no line %q, or none of refusals", err, want)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var calls atomic.Int64
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil { // a connection each, as those that are open see nothing of it
				conn, err := grpc.NewClient(d.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(own.Client(t, nil))))
				if err != nil {
					t.Error(err)
					return
				}
				for range 5 {
					_, err := ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllow(context.WithoutCancel(ctx), &ratelimitv1.ShouldAllowRequest{
						Namespace: "n", Identifier: "a", Limits: []*ratelimitv1.Limit{{Rate: "100/s"}},
					})
					if err != nil {
						t.Errorf("a call is lost: %v", err)
					}
					calls.Add(1)
				}
				_ = conn.Close()
			}
		})
	}
	for range 3 {
		next := own.Issue(t, "127.0.0.1")
		next.Write(t, dir)
		shows(next)
	}
	cancel()
	callers.Wait()
	if calls.Load() < 20 {
		t.Errorf("only %d calls were made meanwhile", calls.Load())
	}
}

// TestClientsChange has check and top show credentials, while the file of the clients
// changes.
func TestClientsChange(t *testing.T) {
	own, ca := authtest.NewAuthority(t, "servers"), authtest.NewAuthority(t, "clients")
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		authtest.Write(t, filepath.Join(dir, name), []byte(text))
		return filepath.Join(dir, name)
	}
	newToken := func() (token, line string) {
		t.Helper()
		stdout, stderr, status := runs(t, nil, "token", "new")
		token, line, _ = strings.Cut(strings.TrimSpace(stdout), "\n")
		if status != exitOK || line != "- "+auth.HashLine(token) || len(token) < 40 {
			t.Fatalf("token new: exit status %d, %q, %s", status, stdout, stderr)
		}
		return token, line
	}
	one, oneLine := newToken()
	two, twoLine := newToken()
	if one == two {
		t.Fatal("two tokens are one")
	}
	file := func(namespace string, lines ...string) string {
		return fmt.Sprintf("clients:\n  - name: shop\n    certificates: [shop.example.org]\n    namespaces: [%s]\n    tokens:\n      %s\n  - {name: ops, certificates: [ops.example.org], namespaces: ['*'], operations: [admin, inspect]}\n", namespace, strings.Join(lines, "\n      "))
	}
	authFile := write("clients.yaml", file("checkout", oneLine))
	cert, key := own.Issue(t, "127.0.0.1").Write(t, dir)
	d := servesLogged(t, "--tls-cert="+cert, "--tls-key="+key, "--tls-client-ca="+write("clients.crt", string(ca.PEM)), "--auth-file="+authFile, "--admin-addr=:0")
	caFile := write("servers.crt", string(own.PEM))
	ask := func(env []string, flags ...string) (string, int) {
		t.Helper()
		stdout, stderr, status := runs(t, env, append([]string{"check", "--addr", d.GRPC, "--tls-ca", caFile, "--namespace=checkout", "--identifier=a", "--rate=1000/s", "--wait=20s"}, flags...)...)
		return stdout + stderr, status
	}
	expect := func(status int, says string, env []string, flags ...string) {
		t.Helper()
		redistest.Eventually(t, "the answer is "+says, func() error {
			if text, got := ask(env, flags...); got != status || !strings.Contains(text, says) {
				return fmt.Errorf("exit status %d, %s; want %d, %s", got, text, status, says)
			}
			return nil
		})
	}
	const unauthenticated = "Unauthenticated: "
	env := func(token string) []string { return []string{"RATELIMITD_TOKEN=" + token} }
	expect(exitError, unauthenticated+"no credentials", nil)
	expect(exitOK, "allowed", env(one))
	expect(exitOK, "allowed", nil, "--token-file="+write("token", one+"\n"))
	expect(exitError, unauthenticated+"the bearer token belongs to no client", env(two))
	shop := ca.Issue(t, "shop.example.org")
	shopDir := t.TempDir()
	shopCert, shopKey := shop.Write(t, shopDir)
	expect(exitOK, "allowed", nil, "--tls-cert="+shopCert, "--tls-key="+shopKey)

	write("clients.yaml", file("checkout", oneLine, twoLine))
	expect(exitOK, "allowed", env(two))
	expect(exitOK, "allowed", env(one))
	write("clients.yaml", "clients: [{name: shop, tokens: ["+one+"]}]") // the token itself
	d.logged(t, "the configuration is refused")
	expect(exitOK, "allowed", env(two))
	if strings.Contains(d.log(t), one) {
		t.Error("the log has a token")
	}
	write("clients.yaml", file("checkout", twoLine))
	expect(exitError, unauthenticated, env(one))
	expect(exitOK, "allowed", env(two))
	write("clients.yaml", file("billing", twoLine))
	expect(exitError, `PermissionDenied: client "shop" has no permission for operation decide in namespace "checkout"`, env(two))

	// top, on an admin port that other machines reach.
	opsCert, opsKey := ca.Issue(t, "ops.example.org").Write(t, t.TempDir())
	_, port, _ := net.SplitHostPort(d.Admin)
	top := func(flags ...string) (string, int) {
		t.Helper()
		stdout, stderr, status := runs(t, nil, append([]string{"top", "--once", "--interval=100ms", "--admin-addr=127.0.0.1:" + port, "--tls-ca=" + caFile}, flags...)...)
		return stdout + stderr, status
	}
	if text, status := top("--tls-cert="+opsCert, "--tls-key="+opsKey); status != exitOK {
		t.Errorf("top: exit status %d, %s", status, text)
	}
	if text, status := top("--tls-cert="+shopCert, "--tls-key="+shopKey); status != exitError || !strings.Contains(text, `client \"shop\" has no permission for operation admin`) {
		t.Errorf("top of a client that may not: exit status %d, %s", status, text)
	}
	if text, status := top(); status != exitError || !strings.Contains(text, "401") {
		t.Errorf("top without credentials: exit status %d, %s", status, text)
	}
}

// TestValidateClients has validate check a file of clients.
func TestValidateClients(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, filepath.Join(dir, "good.yaml"), "clients: [{name: a, tokens: ['"+auth.HashLine("x")+"'], namespaces: ['*']}]\n")
	if stdout, stderr, status := inProcess(t, "validate", good); status != exitOK || !strings.Contains(stdout, "ok, as a file of --auth-file") {
		t.Errorf("exit status %d, %s%s", status, stdout, stderr)
	}
	bad := writeFile(t, filepath.Join(dir, "bad.yaml"), "clients: [{name: a, tokens: ['secret'], namespaces: ['*'], operations: [decided]}]\n")
	if _, stderr, status := inProcess(t, "validate", bad); status != exitNo || !strings.Contains(stderr, `unknown operation "decided"; did you mean "decide"?`) || strings.Contains(stderr, "secret") {
		t.Errorf("exit status %d, %s", status, stderr)
	}
}

// TestConnectFlags uses the flags of clients wrongly.
func TestConnectFlags(t *testing.T) {
	dir := t.TempDir()
	empty := writeFile(t, filepath.Join(dir, "empty"), "\n")
	two := writeFile(t, filepath.Join(dir, "two"), "a b")
	t.Setenv("RATELIMITD_TLS_CERT", "/what/the/daemon/shows") // does not count
	for _, tt := range []struct{ flag, says string }{
		{"--token-file=/nowhere", "--token-file: open /nowhere: no such file"},
		{"--token-file=" + empty, `it is empty; write a token of "ratelimitd token new" into it`},
		{"--token-file=" + two, "it has a character that no token has"},
		{"--tls-ca=/nowhere", "--tls-ca: open /nowhere: no such file"},
		{"--tls-ca=" + empty, "it has no PEM certificate"},
		{"--tls-cert=" + empty, "--tls-cert and --tls-key: give both or neither"},
		{"--tls-key=" + empty, "--tls-cert and --tls-key: give both or neither"},
		{"--wait=100ms", "ask 127.0.0.1:1: "},
	} {
		_, stderr, status := inProcess(t, "check", "--addr=127.0.0.1:1", "--namespace=a", "--identifier=b", "--rate=1/s", tt.flag)
		if status != exitError || !strings.Contains(stderr, tt.says) {
			t.Errorf("%s: exit status %d, %s, want %s", tt.flag, status, stderr, tt.says)
		}
	}
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"token", "old"}, &out, &errs); status != exitError || !strings.Contains(errs.String(), `unknown argument "old"`) {
		t.Errorf("token old: exit status %d, %s", status, errs.String())
	}
}
