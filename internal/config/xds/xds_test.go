package xds_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ratelimitd/ratelimitd/internal/config/xds"
	"github.com/ratelimitd/ratelimitd/internal/crash"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long tests wait for what is to come at once.
const patience = 20 * time.Second

// A server is an xDS server that does as the test says, and so also what none should.
type server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	addr     string
	streams  chan discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer
	requests chan *discoveryv3.DiscoveryRequest
	end      chan error // ends a stream
}

// StreamAggregatedResources implements discoveryv3.AggregatedDiscoveryServiceServer.
func (s *server) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	s.streams <- stream
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			s.requests <- r
		}
	}()
	select {
	case err := <-s.end:
		return err
	case <-stream.Context().Done():
		return nil
	}
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{
		streams:  make(chan discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer, 1000),
		requests: make(chan *discoveryv3.DiscoveryRequest, 1000), end: make(chan error),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	done := make(chan struct{})
	go func() { _ = g.Serve(l); close(done) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return s
}

// next returns what comes next on a channel.
func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("there is no %s", what)
		panic("unreachable")
	}
}

// resources returns a message with resources that are texts.
func resources(version string, texts ...string) *discoveryv3.DiscoveryResponse {
	m := &discoveryv3.DiscoveryResponse{VersionInfo: version, TypeUrl: xds.TypeURL, Nonce: "nonce of " + version}
	for _, text := range texts {
		m.Resources = append(m.Resources, &anypb.Any{TypeUrl: xds.TypeURL, Value: []byte(text)})
	}
	return m
}

// A taker takes all resources but those that begin with "bad", and panics at "panic".
type taker struct {
	mu  sync.Mutex // protects the following
	has []string
}

func (k *taker) take(all [][]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var texts []string
	for _, data := range all {
		switch text := string(data); {
		case text == "panic":
			panic("planted")
		case strings.HasPrefix(text, "bad"):
			return errors.New(text)
		default:
			texts = append(texts, text)
		}
	}
	k.has = texts
	return nil
}

func (k *taker) texts() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.has)
}

// options are those of a client of s.
func options(s *server, k *taker) xds.Options {
	logger := slog.New(slog.DiscardHandler)
	return xds.Options{
		Server: s.addr, NodeID: "node", MaxMessageBytes: 100_000, Backoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
		Take: k.take, Logger: logger, Registry: prometheus.NewRegistry(), Panics: crash.NewLog(logger),
	}
}

// run runs a client until the test ends.
func run(t *testing.T, c *xds.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

// TestHostileServer sends what cannot be used: each is refused, and leaves what is in force.
func TestHostileServer(t *testing.T) {
	s, k := newServer(t), new(taker)
	o := options(s, k)
	run(t, xds.New(o))
	stream := next(t, "stream", s.streams)
	if r := next(t, "first request", s.requests); r.GetVersionInfo() != "" || r.GetNode().GetId() != "node" || r.GetTypeUrl() != xds.TypeURL {
		t.Errorf("the first request is %v", r)
	}
	send := func(m *discoveryv3.DiscoveryResponse) *discoveryv3.DiscoveryRequest {
		t.Helper()
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		return next(t, "reply", s.requests)
	}
	if r := send(resources("1", "a", "b")); r.GetVersionInfo() != "1" || r.GetResponseNonce() != "nonce of 1" || r.GetErrorDetail() != nil {
		t.Errorf("the ACK is %v", r)
	}
	wrongType := resources("2", "c")
	wrongType.Resources[0].TypeUrl = "type.googleapis.com/other"
	long := strings.Repeat("long \xff", 5000)
	for _, tt := range []struct {
		message *discoveryv3.DiscoveryResponse
		want    string
	}{
		{wrongType, `resource 0 has type "type.googleapis.com/other"; send ` + xds.TypeURL},
		{resources("2", "bad words"), "bad words"},
		{resources("2", "panic"), "internal error"},
		{resources("2", "bad"+long), "bad"},
	} {
		r := send(tt.message)
		if r.GetVersionInfo() != "1" || r.GetResponseNonce() != "nonce of 2" || !strings.Contains(r.GetErrorDetail().GetMessage(), tt.want) || len(r.GetErrorDetail().GetMessage()) > 5000 {
			t.Errorf("the NACK is %.300v, want %s", r, tt.want)
		}
		if got := k.texts(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("in force is %q", got)
		}
	}
	// A type that nobody asked for is no message at all.
	foreign := resources("9", "c")
	foreign.TypeUrl = "type.googleapis.com/other"
	if err := stream.Send(foreign); err != nil {
		t.Fatal(err)
	}
	if r := send(resources("3", "d")); r.GetVersionInfo() != "3" || r.GetErrorDetail() != nil {
		t.Errorf("after all that, a good message is answered by %v", r)
	}
	// Nothing at all is a state of the world too.
	if r := send(resources("4")); r.GetVersionInfo() != "4" || len(k.texts()) != 0 {
		t.Errorf("without resources %q is in force, %v", k.texts(), r)
	}
	if err := testutil.GatherAndCompare(o.Registry.(*prometheus.Registry), strings.NewReader(`# HELP ratelimitd_xds_connected 1 while there is a stream from the xDS server; 0 while there is none, and the limits in force stay.
# TYPE ratelimitd_xds_connected gauge
ratelimitd_xds_connected 1
# HELP ratelimitd_xds_updates_total Messages with limits from the xDS server, by whether they were accepted, or refused because they cannot be used.
# TYPE ratelimitd_xds_updates_total counter
ratelimitd_xds_updates_total{result="accepted"} 3
ratelimitd_xds_updates_total{result="refused"} 4
# HELP ratelimitd_xds_version_info 1, with the xDS server's version of the limits in force.
# TYPE ratelimitd_xds_version_info gauge
ratelimitd_xds_version_info{version="4"} 1
`), "ratelimitd_xds_connected", "ratelimitd_xds_updates_total", "ratelimitd_xds_version_info"); err != nil {
		t.Error(err)
	}
}

// TestStreamsEnd has streams end in all ways. The client asks anew, without a version: the
// server may have begun to count anew.
func TestStreamsEnd(t *testing.T) {
	s, k := newServer(t), new(taker)
	run(t, xds.New(options(s, k)))
	for i, end := range []func(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer){
		func(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) { s.end <- nil },
		func(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) {
			s.end <- errors.New("gone")
		},
		func(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) {
			_ = stream.Send(resources("2", strings.Repeat("x", 200_000))) // larger than the client takes
		},
		func(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) {},
	} {
		stream := next(t, "stream", s.streams)
		if r := next(t, "request", s.requests); r.GetVersionInfo() != "" || r.GetResponseNonce() != "" {
			t.Errorf("stream %d begins with %v", i, r)
		}
		if err := stream.Send(resources("1", "a")); err != nil {
			t.Fatal(err)
		}
		if r := next(t, "ACK", s.requests); r.GetVersionInfo() != "1" || r.GetErrorDetail() != nil {
			t.Errorf("stream %d: %v", i, r)
		}
		end(stream)
		if got := k.texts(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("after stream %d %q is in force", i, got)
		}
	}
}

// TestCache keeps what came last, and takes it only whole and from the same server for the
// same node.
func TestCache(t *testing.T) {
	s, k := newServer(t), new(taker)
	file := filepath.Join(t.TempDir(), "limits")
	with := func(change func(*xds.Options)) (*xds.Client, *taker) {
		taken := new(taker)
		o := options(s, taken)
		o.CacheFile = file
		if change != nil {
			change(&o)
		}
		return xds.New(o), taken
	}
	restored := func(change func(*xds.Options)) []string {
		c, taken := with(change)
		c.Restore()
		select {
		case <-c.First():
		default:
			if taken.texts() != nil {
				t.Error("limits are in force, and nobody is told")
			}
		}
		return taken.texts()
	}
	if got := restored(nil); got != nil {
		t.Errorf("without a file: %q", got)
	}
	o := options(s, k)
	o.CacheFile = file
	run(t, xds.New(o))
	stream := next(t, "stream", s.streams)
	for _, text := range []string{"a", "b", "bad", "c"} {
		if err := stream.Send(resources(text, text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Send(resources("bad2", "bad2")); err != nil {
		t.Fatal(err)
	}
	for range 6 { // the last reply comes after the file is written
		next(t, "request", s.requests)
	}
	if got := restored(nil); !slices.Equal(got, []string{"c"}) {
		t.Errorf("the cache has %q, want the last that was good", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
		t.Errorf("beside the file: %v, %v", entries, err)
	}
	for what, change := range map[string]func(*xds.Options){
		"another server": func(o *xds.Options) { o.Server = "127.0.0.1:1" },
		"another node":   func(o *xds.Options) { o.NodeID = "other" },
		"a bound":        func(o *xds.Options) { o.MaxMessageBytes = -1000 },
		"no file":        func(o *xds.Options) { o.CacheFile = "" },
		"a directory":    func(o *xds.Options) { o.CacheFile = filepath.Dir(file) },
	} {
		if got := restored(change); got != nil {
			t.Errorf("%s: %q is in force", what, got)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for _, broken := range [][]byte{data[:i], append(slices.Clone(data[:i]), append([]byte{data[i] ^ 1}, data[i+1:]...)...)} {
			if err := os.WriteFile(file, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := restored(nil); got != nil {
				t.Fatalf("with byte %d damaged %q is in force", i, got)
			}
		}
	}
}
