package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/auth/keypair"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// pairOf returns a Pair of files in a new directory, with a client CA.
func pairOf(t *testing.T, server authtest.Pair, clientCA *authtest.Authority, minVersion uint16) *keypair.Pair {
	t.Helper()
	dir := t.TempDir()
	cert, key := server.Write(t, dir)
	ca := filepath.Join(dir, "ca.crt")
	authtest.Write(t, ca, clientCA.PEM)
	return keypair.New(keypair.Options{Files: keypair.Files{Cert: cert, Key: key, ClientCA: ca}, MinVersion: minVersion, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
}

// overTLS asks d by gRPC on a connection of its own.
func overTLS(t *testing.T, d *daemon, c *tls.Config, options ...grpc.CallOption) error {
	t.Helper()
	conn, err := grpc.NewClient(d.GRPCAddr(), grpc.WithTransportCredentials(credentials.NewTLS(c)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllow(t.Context(), ask("a", limit("1000/s")), options...)
	return err
}

// httpsGet asks d over HTTP on a connection of its own. It returns 0 if the handshake
// fails.
func httpsGet(t *testing.T, d *daemon, path string, c *tls.Config) (code int, protocol string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+d.HTTPAddr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	reply, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer reply.Body.Close()
	_, _ = io.Copy(io.Discard, reply.Body)
	return reply.StatusCode, reply.Proto
}

const authorizePath = "/v1/authorize?namespace=checkout&identifier=a&rate=1000/s"

// TestCertificates connects with certificates of all kinds: to a daemon that knows its
// clients, and to one that only knows who signs for them.
func TestCertificates(t *testing.T) {
	own, ca := authtest.NewAuthority(t, "servers"), authtest.NewAuthority(t, "clients")
	impostor := authtest.NewAuthority(t, "clients") // of the same name, with another key
	server := own.Issue(t, "127.0.0.1")
	pair := pairOf(t, server, ca, 0)
	byFile := clients(t, `
clients:
  - {name: shop, certificates: ["spiffe://example.org/shop/*", shop.example.org], namespaces: [checkout]}
  - {name: cart, certificates: ["spiffe://example.org/shop/cart"], namespaces: [cart]}
  - {name: gateway, tokens: [`+auth.HashLine(tokens["shop"])+`], namespaces: [checkout]}
`)
	bySAN, err := auth.Certified([]string{"shop.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	c := policyConfig(t, checkout)
	c.Clients = byFile
	named := start(t, Options{Config: c, Trust: Trust{TLS: pair, GRPC: true, HTTP: true}})
	anyone := start(t, Options{Config: &Config{Clients: bySAN}, Trust: Trust{TLS: pair, GRPC: true, HTTP: true}})

	issue := func(a *authtest.Authority, sans ...string) *authtest.Pair { p := a.Issue(t, sans...); return &p }
	expired := ca.IssueUntil(t, time.Now().Add(-time.Minute), "shop.example.org")
	const fails = 0 // the handshake
	for name, tt := range map[string]struct {
		show          *authtest.Pair
		named, anyone int // as HTTP statuses
	}{
		"none":                {nil, 401, 401},
		"a DNS name":          {issue(ca, "other.example.org", "SHOP.example.org"), 200, 200},
		"a SPIFFE ID below":   {issue(ca, "spiffe://example.org/shop/front"), 200, 401},
		"an exact SPIFFE ID":  {issue(ca, "spiffe://example.org/shop/cart"), 403, 401},
		"the prefix itself":   {issue(ca, "spiffe://example.org/shop"), 401, 401},
		"a longer name":       {issue(ca, "spiffe://example.org/shop-evil/a"), 401, 401},
		"a way out":           {issue(ca, "spiffe://example.org/shop/../ops"), 401, 401},
		"another domain":      {issue(ca, "spiffe://example.com/shop/front"), 401, 401},
		"a wrong SAN":         {issue(ca, "shop.example.org.attacker.example"), 401, 401},
		"a wildcard":          {issue(ca, "*.example.org"), 401, 401},
		"forged":              {issue(impostor, "shop.example.org"), fails, fails},
		"foreign":             {issue(own, "shop.example.org"), fails, fails},
		"expired":             {&expired, fails, fails},
		"the server's itself": {&server, fails, fails},
	} {
		for d, want := range map[*daemon]int{named: tt.named, anyone: tt.anyone} {
			if code, text := httpsGet(t, d, authorizePath, own.Client(t, tt.show)); code != want {
				t.Errorf("%s, over HTTP: %d %s, want %d", name, code, text, want)
			}
			wantGRPC := map[int]codes.Code{200: codes.OK, 401: codes.Unauthenticated, 403: codes.PermissionDenied, fails: codes.Unavailable}[want]
			if d == anyone && tt.show == nil {
				wantGRPC = codes.Unavailable // no client has a token
			}
			if err := overTLS(t, d, own.Client(t, tt.show)); status.Code(err) != wantGRPC {
				t.Errorf("%s, over gRPC: %v, want %v", name, err, wantGRPC)
			}
		}
		// Health is everybody's who can connect.
		if code, text := httpsGet(t, named, "/healthz", own.Client(t, tt.show)); code != min(tt.named*200, 200) {
			t.Errorf("%s: /healthz: %d %s", name, code, text)
		}
	}
	conn, err := grpc.NewClient(named.GRPCAddr(), grpc.WithTransportCredentials(credentials.NewTLS(own.Client(t, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health without a certificate: %v", err)
	}
	for _, d := range []*daemon{named, anyone} {
		if n := d.metric(t, "ratelimitd_auth_failures_total", "reason=tls_handshake"); n < 8 || d.log.lines("a TLS handshake failed") != 1 {
			t.Errorf("%v failed handshakes are counted, and %d lines logged", n, d.log.lines("a TLS handshake failed"))
		}
	}

	// A proxy with a certificate hands on the credentials of its own client.
	shop := own.Client(t, issue(ca, "shop.example.org"))
	foreign := grpc.PerRPCCredsCallOption{Creds: header("Bearer of-somebody-else")}
	if err := overTLS(t, named, shop, foreign); err != nil {
		t.Errorf("a certificate, and a token of somebody else: %v", err)
	}
	if err := overTLS(t, named, own.Client(t, nil), foreign); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a wrong token alone: %v", err)
	}
	if err := overTLS(t, named, own.Client(t, nil), grpc.PerRPCCredsCallOption{Creds: header("bearer " + tokens["shop"])}); err != nil {
		t.Errorf("a token alone: %v", err)
	}
	if err := overTLS(t, named, own.Client(t, nil), grpc.PerRPCCredsCallOption{Creds: header("Basic " + tokens["shop"])}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token in another scheme: %v", err)
	}
	// And the other way round: who trusts another authority does not speak to us.
	if err := overTLS(t, named, ca.Client(t, nil)); status.Code(err) != codes.Unavailable {
		t.Errorf("a client with other authorities: %v", err)
	}
	if _, err := named.client.ShouldAllow(t.Context(), ask("a", limit("1/s"))); status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
}

// A header is an authorization header.
type header string

func (h header) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(h)}, nil
}
func (header) RequireTransportSecurity() bool { return true }

// TestTLSVersionsAndProtocols looks at what handshakes agree on.
func TestTLSVersionsAndProtocols(t *testing.T) {
	own := authtest.NewAuthority(t, "servers")
	for _, least := range []uint16{0, tls.VersionTLS12} {
		d := start(t, Options{Trust: Trust{TLS: pairOf(t, own.Issue(t, "127.0.0.1"), own, least), GRPC: true, HTTP: true}})
		for _, tt := range []struct {
			addr      string
			most      uint16
			protocols []string
			version   uint16 // 0: none
			protocol  string
		}{
			{d.GRPCAddr(), tls.VersionTLS13, []string{"h2"}, tls.VersionTLS13, "h2"},
			{d.GRPCAddr(), tls.VersionTLS12, []string{"h2"}, least, "h2"},
			{d.GRPCAddr(), tls.VersionTLS13, []string{"http/1.1"}, tls.VersionTLS13, ""}, // and is then hung up on
			{d.HTTPAddr(), tls.VersionTLS13, []string{"h2", "http/1.1"}, tls.VersionTLS13, "h2"},
			{d.HTTPAddr(), tls.VersionTLS13, []string{"http/1.1"}, tls.VersionTLS13, "http/1.1"},
			{d.HTTPAddr(), tls.VersionTLS13, nil, tls.VersionTLS13, ""},
			{d.HTTPAddr(), tls.VersionTLS12, []string{"h2"}, least, "h2"},
			{d.HTTPAddr(), tls.VersionTLS11, nil, 0, ""},
		} {
			c := own.Client(t, nil)
			c.MinVersion, c.MaxVersion, c.NextProtos = tls.VersionTLS10, tt.most, tt.protocols
			conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", tt.addr)
			what := fmt.Sprintf("from %x: at most %x with %v", least, tt.most, tt.protocols)
			if err != nil {
				if tt.version != 0 {
					t.Errorf("%s: %v", what, err)
				}
				continue
			}
			state := conn.(*tls.Conn).ConnectionState()
			if tt.addr == d.GRPCAddr() && state.NegotiatedProtocol == "" {
				if n, err := conn.Read(make([]byte, 1)); err == nil {
					t.Errorf("%s: gRPC is served without its protocol: %d bytes", what, n)
				}
			}
			_ = conn.Close()
			if state.Version != tt.version || state.NegotiatedProtocol != tt.protocol {
				t.Errorf("%s: version %x, protocol %q", what, state.Version, state.NegotiatedProtocol)
			}
		}
		if code, protocol := httpsGet(t, d, "/healthz", own.Client(t, nil)); code != 200 || protocol != "HTTP/2.0" {
			t.Errorf("HTTP: %d %s", code, protocol)
		}
	}
}

// TestTLSOfPorts has some ports speak TLS, and others not.
func TestTLSOfPorts(t *testing.T) {
	own := authtest.NewAuthority(t, "servers")
	pair := pairOf(t, own.Issue(t, "127.0.0.1", "localhost"), own, 0)
	known := known(t)
	d := start(t, Options{AdminAddr: ":0", LogLevel: new(slog.LevelVar), Config: &Config{Clients: known}, Trust: Trust{TLS: pair, GRPC: true, Admin: true}})
	if err := overTLS(t, d, own.Client(t, nil), grpc.PerRPCCredsCallOption{Creds: header("Bearer " + tokens["shop"])}); err != nil {
		t.Error(err)
	}
	if code, _ := d.get(t, "/healthz"); code != 200 {
		t.Errorf("HTTP without TLS: %d", code)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: own.Client(t, nil)}}
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+strings.Replace(d.AdminAddr(), "[::]", "127.0.0.1", 1)+"/hot-keys", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+tokens["ops"])
	reply, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != 200 {
		t.Errorf("the admin port: %s", reply.Status)
	}
	// Certificates alone, and a port that cannot ask for one, as in Envoy's service.
	anyone, err := auth.Certified(nil)
	if err != nil {
		t.Fatal(err)
	}
	envoy := start(t, Options{HTTPAddr: ":0", Config: &Config{Clients: anyone}, Trust: Trust{TLS: pair, GRPC: true}})
	if err := overTLS(t, envoy, own.Client(t, nil)); status.Code(err) != codes.Unavailable {
		t.Errorf("without a certificate: %v", err)
	}
	client1 := own.Issue(t, "a")
	if err := overTLS(t, envoy, own.Client(t, &client1)); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	for path, want := range map[string]int{authorizePath: 200, "/metrics": 200, "/rlconfig": 403} {
		if code, text := envoy.get(t, path); code != want {
			t.Errorf("%s of a port without TLS: %d %.100s, want %d", path, code, text, want)
		}
	}
	if envoy.log.lines("the HTTP port is open") != 1 {
		t.Error("the log does not say that the HTTP port is open")
	}
	local := start(t, Options{AdminAddr: "127.0.0.1:0", LogLevel: new(slog.LevelVar), Trust: Trust{TLS: pair, GRPC: true, HTTP: true, Admin: true}})
	if code, _ := local.admin(t, "GET", "/hot-keys", ""); code != 200 {
		t.Errorf("the admin port on loopback: %d", code)
	}
}
