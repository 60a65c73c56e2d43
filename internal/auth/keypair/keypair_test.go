package keypair_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/auth/keypair"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestClientAuthorityChanges replaces the authority of clients: new connections are
// judged by the new one, and what cannot be used changes nothing.
func TestClientAuthorityChanges(t *testing.T) {
	own, old, next := authtest.NewAuthority(t, "servers"), authtest.NewAuthority(t, "old"), authtest.NewAuthority(t, "new")
	dir := t.TempDir()
	cert, key := own.Issue(t, "localhost").Write(t, dir)
	ca := filepath.Join(dir, "ca.crt")
	authtest.Write(t, ca, old.PEM)
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	p := keypair.New(keypair.Options{Files: keypair.Files{Cert: cert, Key: key, ClientCA: ca}, Logger: slog.New(slog.NewTextHandler(&log, nil)), Registry: registry})
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan os.Signal), make(chan struct{})
	go func() { defer close(done); p.Run(ctx, told) }()
	look := func() { // twice, as the second is taken only when the first is done
		told <- os.Interrupt
		told <- os.Interrupt
	}
	oldPair, nextPair := old.Issue(t, "a"), next.Issue(t, "a")
	for i, step := range []struct {
		ca       []byte
		old, new bool
	}{
		{old.PEM, true, false},
		{append(append([]byte{}, old.PEM...), next.PEM...), true, true},
		{[]byte("none"), true, true},
		{next.PEM, false, true},
	} {
		authtest.Write(t, ca, step.ca)
		look()
		for name, tt := range map[string]struct {
			show *authtest.Pair
			want bool
		}{"old": {&oldPair, step.old}, "new": {&nextPair, step.new}, "none": {nil, false}} {
			if err := handshake(t, p.Server(func() bool { return true }, "h2"), own.Client(t, tt.show)); (err == nil) != tt.want {
				t.Errorf("step %d, %s: %v, want %v", i, name, err, tt.want)
			}
		}
		if err := handshake(t, p.Server(func() bool { return false }, "h2"), own.Client(t, nil)); err != nil {
			t.Errorf("step %d, without a certificate where none is needed: %v", i, err)
		}
	}
	cancel()
	<-done
	if !strings.Contains(log.String(), "it has no PEM certificate") {
		t.Errorf("the log does not say what is wrong:\n%s", log.String())
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(registry, "ratelimitd_tls_certificate_expiry_timestamp_seconds", "ratelimitd_tls_reloads_total"); err != nil || n != 3 {
		t.Errorf("%d metrics, %v", n, err)
	}
}

// handshake has both sides meet. The error is the server's.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	client.ServerName = "localhost"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		served <- tls.Server(conn, server).Handshake()
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	clientErr := tls.Client(conn, client).Handshake()
	if err := <-served; err != nil {
		return fmt.Errorf("%w (the client: %w)", err, clientErr)
	}
	return clientErr
}
