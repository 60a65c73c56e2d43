package attack

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/connect"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// guessAttacks have somebody guess, again and again.
func guessAttacks() []attack {
	var g guesser
	return []attack{
		{name: "guesses of tokens", prepare: g.prepare, do: g.overGRPC},
		{name: "guesses of tokens over HTTP", prepare: g.prepare, do: g.overHTTP},
		{name: "guesses of tokens on the admin port", prepare: g.prepareAdmin, do: g.onAdminPort},
		{name: "guesses of tokens over Redis", prepare: g.prepare, do: g.overRedis},
		{name: "handshakes", prepare: withTLS, do: handshakes},
	}
}

// A guesser guesses the token of the innocent caller.
type guesser struct{ token, line string }

func (g *guesser) prepare(t *testing.T) setup {
	g.token = auth.NewToken()
	g.line = auth.HashLine(g.token)
	dir := t.TempDir()
	file, token := filepath.Join(dir, "clients.yaml"), filepath.Join(dir, "token")
	write(t, token, g.token)
	write(t, file, fmt.Sprintf("clients:\n  - {name: innocent, tokens: [%s], namespaces: [innocent]}\n", g.line))
	return setup{flags: []string{"--auth-file=" + file}, credentials: connect.Options{TokenFile: token}}
}

// guess returns the guess with a number: one that is nearly right, or far from it.
func (g *guesser) guess(i int) string {
	last := len(g.token) - 1
	switch i % 8 {
	case 0:
		return g.token[:last]
	case 1:
		return g.token + "x"
	case 2:
		return strings.ToUpper(g.token)
	case 3:
		return strings.TrimPrefix(g.line, "sha256:")
	case 4:
		at := i / 8 % last
		return g.token[:at] + string(g.token[at]^1) + g.token[at+1:]
	case 5:
		return strings.Repeat("x", 2000)
	case 6:
		return fmt.Sprint(i)
	}
	return auth.NewToken()
}

func (g *guesser) overGRPC(ctx context.Context, t *testing.T, d *daemon) {
	client := ratelimitv1.NewRateLimitServiceClient(d.dial(t))
	together(ctx, size(8, 64), size(1000, 30_000), func(i int) {
		guessing := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+g.guess(i))
		_, err := client.ShouldAllow(guessing, &ratelimitv1.ShouldAllowRequest{Namespace: "innocent", Identifier: "alice", Policy: "default"})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("guess %d gets %v, want UNAUTHENTICATED", i%8, err)
		}
	})
}

func (g *guesser) overHTTP(ctx context.Context, t *testing.T, d *daemon) {
	g.ask(ctx, t, "http://"+d.HTTP, []string{"GET /v1/authorize?namespace=innocent&identifier=alice&policy=default", "GET /metrics", "GET /rlconfig", "POST /v1/should-allow"})
}

// prepareAdmin has the admin port listen beyond loopback, where it asks who somebody is.
// The attacker comes over loopback even so.
func (g *guesser) prepareAdmin(t *testing.T) setup {
	s := g.prepare(t)
	innocent := g.line
	s.operator = auth.NewToken() // this is the one that is guessed
	g.token, g.line = s.operator, auth.HashLine(s.operator)
	file := filepath.Join(t.TempDir(), "clients.yaml")
	write(t, file, fmt.Sprintf("clients:\n  - {name: innocent, tokens: [%s], namespaces: [innocent]}\n  - {name: operator, tokens: [%s], namespaces: [\"*\"], operations: [admin]}\n", innocent, g.line))
	s.flags = []string{"--auth-file=" + file, "--admin-addr=0.0.0.0:0"}
	return s
}

func (g *guesser) onAdminPort(ctx context.Context, t *testing.T, d *daemon) {
	g.ask(ctx, t, "http://"+d.Admin, []string{
		"GET /metrics", "GET /configuration", "PUT /loglevel", "GET /debug/pprof/heap", "GET /debug/pprof/trace?seconds=1",
		"POST /console/validate", "POST /console/replay", "POST /envoy/reset?domain=edge&entry=user=alice",
	})
}

// ask sends requests, such as "GET /metrics", each with a guess.
func (g *guesser) ask(ctx context.Context, t *testing.T, base string, requests []string) {
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	together(ctx, size(8, 64), size(1000, 20_000), func(i int) {
		method, path, _ := strings.Cut(requests[i/8%len(requests)], " ")
		r, err := http.NewRequestWithContext(ctx, method, base+path, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Authorization", "Bearer "+g.guess(i))
		answer, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close()
		_, _ = io.Copy(io.Discard, answer.Body)
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("guess %d gets %d of %s, want 401", i%8, answer.StatusCode, path)
		}
	})
}

// overRedis sends guesses one after the other, without waiting for replies, and asks after
// each.
func (g *guesser) overRedis(ctx context.Context, t *testing.T, d *daemon) {
	const guesses = 1000
	together(ctx, size(4, 32), size(8, 200), func(n int) {
		var text strings.Builder
		for i := range guesses {
			fmt.Fprintf(&text, "AUTH %s%s\r\nRL.POLICY innocent default alice\r\n", []string{"", "default "}[i/8%2], g.guess(n*guesses+i))
		}
		reply, err := redisReplies(ctx, d, text.String())
		if errors := strings.Count(reply, "-"); err != nil || errors < 2*guesses || strings.Contains(reply, "*") {
			t.Errorf("%d errors in reply to %d guesses, %v: %.300q", errors, guesses, err, reply)
		}
	})
}

// handshakes makes as many whole handshakes as it can, and says nothing more.
func handshakes(ctx context.Context, t *testing.T, d *daemon) {
	together(ctx, size(8, 64), size(300, 4000), func(i int) {
		c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", []string{d.GRPC, d.HTTP, d.RESP}[i%3])
		if err != nil {
			return // this is the daemon's right
		}
		secure := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // whoever it is
		_ = secure.HandshakeContext(ctx)
		_ = secure.Close()
	})
}
