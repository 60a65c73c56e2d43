package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	rlsconfv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

// A controlPlane is an xDS server as Envoy Gateway runs it: a snapshot cache behind TLS 1.3
// that asks for the daemon's certificate.
type controlPlane struct {
	t        *testing.T
	addr     string
	secure   *tls.Config
	cache    cachev3.SnapshotCache
	server   *grpc.Server
	requests chan *discoveryv3.DiscoveryRequest
	headers  chan metadata.MD
}

// node is the daemon's id at Envoy Gateway.
const node = "envoy-ratelimit"

// newControlPlane returns one with the certificate of a name. It does not listen yet.
func newControlPlane(t *testing.T, authority *authtest.Authority, name string) *controlPlane {
	t.Helper()
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(authority.PEM)
	return &controlPlane{
		t: t, addr: freeAddr(t),
		secure: &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{authority.Issue(t, name).TLS(t)},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		},
		requests: make(chan *discoveryv3.DiscoveryRequest, 1000), headers: make(chan metadata.MD, 1000),
	}
}

// start listens, with an empty cache.
func (c *controlPlane) start() {
	c.t.Helper()
	var l net.Listener
	redistest.Eventually(c.t, "the port of the control plane is free", func() (err error) {
		l, err = net.Listen("tcp", c.addr)
		return err
	})
	c.cache = cachev3.NewSnapshotCache(false, cachev3.IDHash{}, nil)
	c.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(c.secure)))
	ctx, cancel := context.WithCancel(context.Background())
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(c.server, serverv3.NewServer(ctx, c.cache, serverv3.CallbackFuncs{
		StreamOpenFunc: func(ctx context.Context, _ int64, _ string) error {
			md, _ := metadata.FromIncomingContext(ctx)
			c.headers <- md
			return nil
		},
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error {
			c.requests <- r
			return nil
		},
	}))
	server := c.server
	go func() { _ = server.Serve(l) }()
	c.t.Cleanup(func() { cancel(); server.Stop() })
}

// set sends configurations, under a version.
func (c *controlPlane) set(version string, all ...*rlsconfv3.RateLimitConfig) {
	c.t.Helper()
	resources := make([]types.Resource, len(all))
	for i := range all {
		resources[i] = all[i]
	}
	snapshot, err := cachev3.NewSnapshot(version, map[resourcev3.Type][]types.Resource{resourcev3.RateLimitConfigType: resources})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.cache.SetSnapshot(c.t.Context(), node, snapshot); err != nil {
		c.t.Fatal(err)
	}
}

// request waits for a request that is what is wanted.
func (c *controlPlane) request(what string, is func(*discoveryv3.DiscoveryRequest) bool) *discoveryv3.DiscoveryRequest {
	c.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case r := <-c.requests:
			if is(r) {
				return r
			}
		case <-deadline:
			c.t.Fatalf("the daemon sends no %s", what)
		}
	}
}

// acked waits for the ACK of a version.
func (c *controlPlane) acked(version string) {
	c.t.Helper()
	c.request("ACK of "+version, func(r *discoveryv3.DiscoveryRequest) bool {
		return r.GetErrorDetail() == nil && r.GetResponseNonce() != "" && r.GetVersionInfo() == version
	})
}

// gatewayConfig is a configuration like Envoy Gateway's, whose limit is that of alice.
func gatewayConfig(domain string, requests uint32, unit rlsconfv3.RateLimitUnit) *rlsconfv3.RateLimitConfig {
	return &rlsconfv3.RateLimitConfig{Name: domain, Domain: domain, Descriptors: []*rlsconfv3.RateLimitDescriptor{{
		Key: "route", Value: "route",
		Descriptors: []*rlsconfv3.RateLimitDescriptor{{Key: "user", Value: "alice", RateLimit: &rlsconfv3.RateLimitPolicy{RequestsPerUnit: requests, Unit: unit}}},
	}}}
}

// A gatewayPod is the daemon as Envoy Gateway starts it.
type gatewayPod struct {
	*loggedDaemon
	t      *testing.T
	cmd    *exec.Cmd
	done   chan struct{} // closed when it has ended
	client rlsv3.RateLimitServiceClient
}

// pod is the directory that stands for / in a pod.
type pod struct {
	dir       string
	metrics   string // the address of its metrics
	authority *authtest.Authority
}

func newPod(t *testing.T, authority *authtest.Authority) *pod {
	t.Helper()
	p := &pod{dir: t.TempDir(), metrics: freeAddr(t), authority: authority}
	for _, dir := range []string{"bin", "certs", "cache"} {
		if err := os.Mkdir(filepath.Join(p.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(os.Args[0], p.path("bin/ratelimit")); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pod) path(name string) string { return filepath.Join(p.dir, name) }

// mount puts the certificates into the pod.
func (p *pod) mount(t *testing.T) {
	t.Helper()
	p.authority.Issue(t, "envoy-ratelimit", "127.0.0.1").Write(t, p.path("certs"))
	authtest.Write(t, p.path("certs/ca.crt"), p.authority.PEM)
}

// env is the environment of Envoy Gateway's deployment, but for the addresses, which are
// free ones.
func (p *pod) env(server string, more ...string) []string {
	return append([]string{
		asMain + "=1", "GRPC_HOST=127.0.0.1", "GRPC_PORT=0", "HOST=127.0.0.1", "PORT=0", "RATELIMITD_ADMIN_ADDR=off", "RATELIMITD_LOG_FORMAT=json",
		"RUNTIME_ROOT=" + p.path("data"), "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_IGNOREDOTFILES=true", "RUNTIME_WATCH_ROOT=false",
		"LOG_LEVEL=info", "USE_STATSD=false", "USE_PROMETHEUS=true", "PROMETHEUS_ADDR=" + p.metrics, "PROMETHEUS_MAPPER_YAML=/etc/statsd-exporter/conf.yaml",
		"CONFIG_TYPE=GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL=" + server, "CONFIG_GRPC_XDS_NODE_ID=" + node,
		"GRPC_SERVER_USE_TLS=true", "GRPC_SERVER_TLS_CERT=" + p.path("certs/tls.crt"), "GRPC_SERVER_TLS_KEY=" + p.path("certs/tls.key"), "GRPC_SERVER_TLS_CA_CERT=" + p.path("certs/ca.crt"),
		"CONFIG_GRPC_XDS_SERVER_USE_TLS=true", "CONFIG_GRPC_XDS_CLIENT_TLS_CERT=" + p.path("certs/tls.crt"), "CONFIG_GRPC_XDS_CLIENT_TLS_KEY=" + p.path("certs/tls.key"), "CONFIG_GRPC_XDS_SERVER_TLS_CACERT=" + p.path("certs/ca.crt"),
		"REDIS_SOCKET_TYPE=tcp", "REDIS_URL=redis.redis-system.svc:6379", "RATELIMITD_STORE=memory",
	}, more...)
}

// start starts the daemon by Envoy Gateway's command, which has no arguments.
func (p *pod) start(t *testing.T, env []string) *gatewayPod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	g := &gatewayPod{t: t, cmd: exec.CommandContext(ctx, p.path("bin/ratelimit")), done: make(chan struct{})} //nolint:gosec // it is this test
	g.loggedDaemon = &loggedDaemon{file: filepath.Join(t.TempDir(), "log")}
	file, err := os.Create(g.file)
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Env, g.cmd.Stderr = env, file
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.cmd.Wait(); close(g.done) }()
	t.Cleanup(func() {
		g.stop()
		_ = file.Close()
		if t.Failed() {
			t.Logf("the log:\n%s", g.log(t))
		}
	})
	return g
}

// serving waits until it serves, and connects.
func (g *gatewayPod) serving(authority *authtest.Authority) {
	g.t.Helper()
	g.awaitServing(g.t)
	conn, err := grpc.NewClient(g.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(authority.Client(g.t, nil))))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	g.client = rlsv3.NewRateLimitServiceClient(conn)
}

// stop ends it and returns its exit status.
func (g *gatewayPod) stop() int {
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	<-g.done
	return g.cmd.ProcessState.ExitCode()
}

// limit returns what alice is held to in a domain; 0 is no limit.
func (g *gatewayPod) limit(domain string) (uint32, rlsv3.RateLimitResponse_RateLimit_Unit, error) {
	out, err := g.client.ShouldRateLimit(g.t.Context(), &rlsv3.RateLimitRequest{Domain: domain, Descriptors: []*commonv3.RateLimitDescriptor{{
		Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "route", Value: "route"}, {Key: "user", Value: "alice"}},
	}}}, grpc.WaitForReady(true))
	if err != nil {
		return 0, 0, err
	}
	limit := out.GetStatuses()[0].GetCurrentLimit()
	return limit.GetRequestsPerUnit(), limit.GetUnit(), nil
}

// holds waits until alice is held to a number of requests.
func (g *gatewayPod) holds(domain string, requests uint32) {
	g.t.Helper()
	redistest.Eventually(g.t, fmt.Sprintf("%s has a limit of %d", domain, requests), func() error {
		n, _, err := g.limit(domain)
		if err == nil && n != requests {
			err = fmt.Errorf("it is %d", n)
		}
		return err
	})
}

// get returns the status and body of an HTTP path.
func (g *gatewayPod) get(path string) (int, string) {
	g.t.Helper()
	return g.getURL("http://" + g.HTTP + path)
}

func (g *gatewayPod) getURL(url string) (int, string) {
	g.t.Helper()
	reply, err := http.Get(url) //nolint:gosec,noctx // it is the daemon's
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return reply.StatusCode, string(body)
}

// metric waits until the daemon shows a metric.
func (g *gatewayPod) metric(want string) {
	g.t.Helper()
	redistest.Eventually(g.t, "the metric "+want, func() error {
		_, body := g.get("/metrics")
		if strings.Contains(body, "\n"+want+"\n") {
			return nil
		}
		var of []string
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "ratelimitd_xds_") || strings.HasPrefix(line, "ratelimitd_config_") {
				of = append(of, line)
			}
		}
		return errors.New(strings.Join(of, ""))
	})
}

// TestEnvoyGateway runs the daemon as a pod of Envoy Gateway: its command, its environment,
// its files, and a control plane that is made of what Envoy Gateway is made of.
func TestEnvoyGateway(t *testing.T) {
	authority := authtest.NewAuthority(t, "envoy-gateway")
	plane := newControlPlane(t, authority, "127.0.0.1")
	p := newPod(t, authority)
	env := p.env(plane.addr, "FORCE_START_WITHOUT_INITIAL_CONFIG=true", "RATELIMITD_XDS_CACHE_FILE="+p.path("cache/limits"),
		"CONFIG_GRPC_XDS_NODE_METADATA=zone=a,cluster=b", "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS=x-tenant:one,authorization:Bearer secret", "XDS_CLIENT_BACKOFF_MAX_INTERVAL=2s")

	// Neither certificates nor the control plane are there.
	g := p.start(t, env)
	g.serving(authority)
	if code, body := g.get("/healthcheck"); code != http.StatusOK || body != "OK" {
		t.Errorf("healthcheck: %d, %s", code, body)
	}
	p.mount(t)
	redistest.Eventually(t, "without limits, Envoy is answered UNAVAILABLE", func() error {
		_, _, err := g.limit("default/eg")
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no limits have come from the xDS server yet") {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	if code, body := g.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no limits have come") {
		t.Errorf("readyz: %d, %s", code, body)
	}

	plane.start()
	plane.set("1", gatewayConfig("default/eg", 5, rlsconfv3.RateLimitUnit_MONTH), gatewayConfig("default/other", 7, rlsconfv3.RateLimitUnit_WEEK))
	g.holds("default/eg", 5)
	g.holds("default/other", 7)
	if _, unit, err := g.limit("default/eg"); err != nil || unit != rlsv3.RateLimitResponse_RateLimit_MONTH {
		t.Errorf("the unit is %v, %v", unit, err)
	}
	first := plane.request("first request", func(r *discoveryv3.DiscoveryRequest) bool { return r.GetResponseNonce() == "" })
	if first.GetNode().GetId() != node || first.GetVersionInfo() != "" || first.GetTypeUrl() != resourcev3.RateLimitConfigType || first.GetNode().GetMetadata().AsMap()["zone"] != "a" {
		t.Errorf("the first request is %v", first)
	}
	if md := <-plane.headers; fmt.Sprint(md.Get("x-tenant"), md.Get("authorization")) != "[one] [Bearer secret]" {
		t.Errorf("the headers are %v", md)
	}
	plane.acked("1")
	g.metric("ratelimitd_xds_connected 1")
	g.metric(`ratelimitd_xds_version_info{version="1"} 1`)
	if code, _ := g.get("/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d", code)
	}

	// A change; then one that cannot be used, which is refused whole.
	plane.set("2", gatewayConfig("default/eg", 6, rlsconfv3.RateLimitUnit_MONTH))
	g.holds("default/eg", 6)
	g.holds("default/other", 0)
	plane.acked("2")
	plane.set("3", gatewayConfig("default/new", 1, rlsconfv3.RateLimitUnit_DAY), gatewayConfig("default/eg", 100, rlsconfv3.RateLimitUnit_UNKNOWN))
	nack := plane.request("NACK", func(r *discoveryv3.DiscoveryRequest) bool { return r.GetErrorDetail() != nil })
	if want := `resource "default/eg": descriptors[0].descriptors[0] ("default/eg.route_route.user_alice"): unit "UNKNOWN" is not known; use second, minute, hour, day, week, month, year`; nack.GetErrorDetail().GetMessage() != want ||
		nack.GetVersionInfo() != "2" || nack.GetResponseNonce() == "" || codes.Code(nack.GetErrorDetail().GetCode()) != codes.InvalidArgument { //nolint:gosec // a code
		t.Errorf("the NACK is %v, want %s", nack, want)
	}
	g.holds("default/eg", 6)
	g.holds("default/new", 0)
	g.metric("ratelimitd_config_last_reload_successful 0")
	// Such servers send it again at once; the daemon does not let that keep it busy.
	start, nacks := time.Now(), 0
	for time.Since(start) < 3*time.Second {
		select {
		case r := <-plane.requests:
			if r.GetErrorDetail() != nil {
				nacks++
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	if nacks > 4 {
		t.Errorf("%d NACKs in 3 s", nacks)
	}
	plane.set("4", gatewayConfig("default/eg", 8, rlsconfv3.RateLimitUnit_MONTH))
	g.holds("default/eg", 8)
	g.metric("ratelimitd_config_last_reload_successful 1")

	// The control plane goes away, and comes back with versions that begin anew.
	plane.server.Stop()
	g.logged(t, "there is no stream from the xDS server; the limits in force stay")
	g.holds("default/eg", 8)
	g.metric("ratelimitd_xds_connected 0")
	if code, body := g.get("/healthcheck"); code != http.StatusOK {
		t.Errorf("healthcheck: %d, %s", code, body)
	}
	plane.start()
	plane.set("4", gatewayConfig("default/eg", 9, rlsconfv3.RateLimitUnit_MONTH))
	g.holds("default/eg", 9)
	plane.acked("4")
	redistest.Eventually(t, "the cache is written", func() error { _, err := os.Stat(p.path("cache/limits")); return err })

	if _, body := g.getURL("http://" + p.metrics + "/metrics"); !strings.Contains(body, "\nratelimit_service_config_load_success 4\n") || !strings.Contains(body, "\nratelimit_service_config_load_error 1\n") ||
		!strings.Contains(body, "\nratelimit_service_should_rate_limit_error{err_type=\"redis_error\"} 0\n") ||
		!strings.Contains(body, `ratelimit_service_rate_limit_total_hits{domain="default/eg",key1="route_route",key2="user_alice"}`) {
		var of []string
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "ratelimit_service_") && !strings.Contains(line, "_bucket") {
				of = append(of, line)
			}
		}
		t.Errorf("the metrics of Envoy's service are\n%s", strings.Join(of, ""))
	}
	if strings.Contains(g.log(t), "Bearer") {
		t.Errorf("the log has a secret header:\n%s", g.log(t))
	}
	if code := g.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}

	// A restart without the control plane, and without being told to start unconfigured.
	plane.server.Stop()
	again := p.start(t, p.env(plane.addr, "RATELIMITD_XDS_CACHE_FILE="+p.path("cache/limits")))
	again.serving(authority)
	if n, _, err := again.limit("default/eg"); n != 9 || err != nil {
		t.Errorf("after a restart the limit is %d, %v, want the cached one", n, err)
	}
	again.metric(`ratelimitd_xds_version_info{version="4"} 1`)
	if code := again.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}

	// A cache that was damaged is as none.
	data, err := os.ReadFile(p.path("cache/limits"))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	authtest.Write(t, p.path("cache/limits"), data)
	damaged := p.start(t, p.env(plane.addr, "FORCE_START_WITHOUT_INITIAL_CONFIG=true", "RATELIMITD_XDS_CACHE_FILE="+p.path("cache/limits")))
	damaged.serving(authority)
	if _, _, err := damaged.limit("default/eg"); status.Code(err) != codes.Unavailable {
		t.Errorf("with a damaged cache: %v", err)
	}
	damaged.logged(t, "the cache of limits cannot be used")
}

// TestWaitForLimits has the daemon listen only once there are limits, unless it is told
// to start without, and reach a server by the name in its certificate.
func TestWaitForLimits(t *testing.T) {
	authority := authtest.NewAuthority(t, "envoy-gateway")
	plane := newControlPlane(t, authority, "envoy-gateway")
	p := newPod(t, authority)
	p.mount(t)
	env := p.env(plane.addr, "CONFIG_GRPC_XDS_SERVER_TLS_SAN=envoy-gateway")
	g := p.start(t, env)
	g.logged(t, "waiting for limits from the xDS server before listening")
	plane.start()
	plane.request("request", func(*discoveryv3.DiscoveryRequest) bool { return true })
	if strings.Contains(g.log(t), `"serving"`) {
		t.Error("it serves without limits")
	}
	plane.set("1", gatewayConfig("default/eg", 5, rlsconfv3.RateLimitUnit_YEAR))
	g.serving(authority)
	if n, _, err := g.limit("default/eg"); n != 5 || err != nil {
		t.Errorf("the first call finds a limit of %d, %v", n, err)
	}

	plane.server.Stop()
	waiting := p.start(t, env)
	waiting.logged(t, "waiting for limits from the xDS server before listening")
	if code := waiting.stop(); code != exitOK {
		t.Errorf("told to stop while it waits, its exit status is %d", code)
	}
}
