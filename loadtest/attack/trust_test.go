package attack

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/connect"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// trustAttacks are those of callers who may not ask, or not this.
func trustAttacks() []attack {
	var tenant tenant
	var strangers strangers
	return []attack{
		{name: "a tenant", prepare: tenant.prepare, do: tenant.attack},
		{name: "strangers", prepare: strangers.prepare, do: strangers.attack},
	}
}

// A tenant is a client that may use some namespaces, and wants another's.
type tenant struct{ token string }

func (n *tenant) prepare(t *testing.T) setup {
	n.token = auth.NewToken()
	own := auth.NewToken()
	dir := t.TempDir()
	file, token := filepath.Join(dir, "clients.yaml"), filepath.Join(dir, "token")
	write(t, token, own)
	write(t, file, fmt.Sprintf("clients:\n  - {name: innocent, tokens: [%s], namespaces: [innocent]}\n  - {name: tenant, tokens: [%s], namespaces: [\"tenant*\"], operations: [decide, reset]}\n", auth.HashLine(own), auth.HashLine(n.token)))
	return setup{flags: []string{"--auth-file=" + file}, credentials: connect.Options{TokenFile: token}}
}

func (n *tenant) attack(ctx context.Context, t *testing.T, d *daemon) {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+n.token, "x-namespace", "innocent")
	conn := d.dial(t)
	client, proxy := ratelimitv1.NewRateLimitServiceClient(conn), rlsv3.NewRateLimitServiceClient(conn)
	all := []*ratelimitv1.Limit{{Rate: fmt.Sprint(innocentLimit(), "/366d"), Name: "all"}}
	cost := uint64(innocentLimit())
	// What it may not ask.
	foreign := []*ratelimitv1.ShouldAllowRequest{
		{Namespace: "innocent", Identifier: "alice", Policy: "default", Cost: &cost},
		{Namespace: "innocent", Identifier: "alice", Limits: all, Cost: &cost},
		{Namespace: "innocent", Identifier: "alice", Policy: "default", DryRun: true},
	}
	// What it may ask, or what nobody may: names that look like another's.
	alike := []*ratelimitv1.ShouldAllowRequest{
		{Namespace: "tenant", Identifier: "alice", Limits: all, Cost: &cost},
		{Namespace: "tenant", Identifier: "}:innocent:alice", Limits: all, Cost: &cost},
		{Namespace: "tenant\x00innocent", Identifier: "alice", Limits: all, Cost: &cost},
		{Namespace: "tenant}:{innocent", Identifier: "alice", Limits: all, Cost: &cost},
		{Namespace: "tenant/../innocent", Identifier: "alice", Limits: all, Cost: &cost},
		{Namespace: "innocent\x00", Identifier: "alice", Limits: all, Cost: &cost},
		{Namespace: " innocent", Identifier: "alice", Limits: all, Cost: &cost},
		{Namespace: "Innocent", Identifier: "alice", Limits: all, Cost: &cost},
		{Namespace: "", Identifier: "innocent:alice", Limits: all, Cost: &cost},
		{Namespace: "tenant", Identifier: "alice", Policy: "innocent/default", Cost: &cost},
		{Namespace: "tenant", Identifier: "alice", Policy: "default", Cost: &cost},
	}
	forbidden := func(what string, err error) {
		if code := status.Code(err); code != codes.PermissionDenied {
			t.Errorf("%s: %v, want PERMISSION_DENIED", what, err)
		}
	}
	mixed := &ratelimitv1.ShouldAllowBatchRequest{Requests: slices.Concat(alike, foreign, alike)}
	together(ctx, 4, size(50, 3000), func(i int) {
		for j, r := range foreign {
			_, err := client.ShouldAllow(ctx, r)
			forbidden(fmt.Sprint("request ", j), err)
		}
		for _, r := range alike {
			_, _ = client.ShouldAllow(ctx, r)
		}
		results := func(out *ratelimitv1.ShouldAllowBatchResponse, err error) {
			if err != nil || len(out.GetResults()) != len(mixed.GetRequests()) {
				t.Errorf("a batch: %d results, %v", len(out.GetResults()), err)
				return
			}
			for j := range foreign {
				if code := out.GetResults()[len(alike)+j].GetError().GetCode(); code != int32(codes.PermissionDenied) {
					t.Errorf("request %d in a batch has the code %d", j, code)
				}
			}
		}
		results(client.ShouldAllowBatch(ctx, mixed))
		stream, err := client.ShouldAllowStream(ctx)
		if err == nil {
			err = stream.Send(mixed)
		}
		if err != nil {
			t.Error(err)
			return
		}
		results(stream.Recv())
		_ = stream.CloseSend()
		_, _ = stream.Recv()
		_, err = client.Reset(ctx, &ratelimitv1.ResetRequest{Namespace: "innocent", Identifier: "alice", Policy: "default"})
		forbidden("a reset", err)
		_, err = client.Reset(ctx, &ratelimitv1.ResetRequest{Namespace: "innocent", Identifier: "alice", Limits: all})
		forbidden("a reset", err)
		for _, domain := range []string{"innocent", "tenant", "tenant\x00innocent"} {
			_, err = proxy.ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: domain, HitsAddend: 1000, Descriptors: []*commonv3.RateLimitDescriptor{
				{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "alice", Value: ""}}},
			}})
			if domain == "innocent" {
				forbidden("Envoy's request", err)
			}
		}
		n.overHTTP(ctx, t, d, i)
	})
}

// overHTTP asks for another's counters over HTTP.
func (n *tenant) overHTTP(ctx context.Context, t *testing.T, d *daemon, i int) {
	query := "?namespace=innocent&identifier=alice&policy=default&cost=1000"
	for _, q := range []struct{ method, path, body string }{
		{http.MethodPost, "/v1/should-allow", `{"namespace":"innocent","identifier":"alice","policy":"default","cost":1000}`},
		{http.MethodPost, "/v1/should-allow", `{"namespace":"tenant","namespace":"innocent","identifier":"alice","policy":"default"}`},
		{http.MethodGet, "/v1/authorize" + query, ""},
		{http.MethodGet, "/v1/authorize" + query + "&namespace=tenant", ""},
		{http.MethodGet, "/v1//authorize" + query, ""},
		{http.MethodGet, "/healthz/../v1/authorize" + query, ""},
		{http.MethodPost, "/json", `{"domain":"innocent","hitsAddend":1000,"descriptors":[{"entries":[{"key":"alice"}]}]}`},
		{http.MethodGet, "/metrics", ""},
		{http.MethodGet, "/rlconfig", ""},
	} {
		r, err := http.NewRequestWithContext(ctx, q.method, "http://"+d.HTTP, strings.NewReader(q.body))
		if err != nil {
			t.Error(err)
			return
		}
		r.URL.Opaque = "//" + d.HTTP + q.path // as it is
		if i%2 == 0 {
			r.Header.Set("X-Original-Url", "/healthz")
			r.Header.Set("X-Forwarded-For", "127.0.0.1")
		}
		r.Header.Set("Authorization", "Bearer "+n.token)
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Error(err)
			return
		}
		_ = answer.Body.Close()
		if answer.StatusCode < 300 || answer.StatusCode > 499 || answer.StatusCode == http.StatusTooManyRequests {
			t.Errorf("%s %s: %d, want it refused", q.method, q.path, answer.StatusCode)
		}
	}
}

// strangers have no credentials that are valid.
type strangers struct {
	authority        *authtest.Authority
	expired, foreign authtest.Pair
	other            authtest.Pair // of the right authority, with a name that is not known
}

func (s *strangers) prepare(t *testing.T) setup {
	const name = "spiffe://example.org/innocent"
	s.authority = authtest.NewAuthority(t, "example")
	again := authtest.NewAuthority(t, "example") // by the same name, with another key
	s.foreign, s.expired, s.other = again.Issue(t, name), s.authority.IssueUntil(t, time.Now().Add(-time.Minute), name), s.authority.Issue(t, "spiffe://example.org/innocents")
	server, client := t.TempDir(), t.TempDir()
	cert, key := s.authority.Issue(t, "127.0.0.1").Write(t, server)
	own, ownKey := s.authority.Issue(t, name).Write(t, client)
	ca, file := filepath.Join(server, "ca.crt"), filepath.Join(server, "clients.yaml")
	authtest.Write(t, ca, s.authority.PEM)
	write(t, file, fmt.Sprintf("clients: [{name: innocent, certificates: [%s], tokens: [%s], namespaces: [innocent]}]\n", name, auth.HashLine(auth.NewToken())))
	return setup{
		flags:       []string{"--tls-cert=" + cert, "--tls-key=" + key, "--tls-client-ca=" + ca, "--auth-file=" + file},
		credentials: connect.Options{CA: ca, Cert: own, Key: ownKey},
	}
}

func (s *strangers) attack(ctx context.Context, t *testing.T, d *daemon) {
	var conns []*grpc.ClientConn
	for _, pair := range []*authtest.Pair{nil, &s.expired, &s.foreign, &s.other} {
		conns = append(conns, d.dial(t, grpc.WithTransportCredentials(credentials.NewTLS(s.authority.Client(t, pair)))))
	}
	conns = append(conns, d.dial(t, grpc.WithTransportCredentials(insecure.NewCredentials())))
	tokens := []string{"", "Bearer ", "Bearer " + auth.NewToken(), "bearer x", "Basic YTpi", "Bearer " + strings.Repeat("x", 4000), "Bearer a, Bearer b", "\xff\xfe"}
	for i := range tokens {
		tokens[i] = strings.ToValidUTF8(tokens[i], "")
	}
	requests := []func(context.Context, *grpc.ClientConn) error{
		func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := ratelimitv1.NewRateLimitServiceClient(c).ShouldAllow(ctx, &ratelimitv1.ShouldAllowRequest{Namespace: "innocent", Identifier: "alice", Policy: "default"})
			return err
		},
		func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := ratelimitv1.NewRateLimitServiceClient(c).Reset(ctx, &ratelimitv1.ResetRequest{Namespace: "innocent", Identifier: "alice", Policy: "default"})
			return err
		},
		func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := rlsv3.NewRateLimitServiceClient(c).ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: "innocent"})
			return err
		},
	}
	together(ctx, 8, size(400, 40_000), func(i int) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if token := tokens[i/5%len(tokens)]; token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", token)
		}
		err := requests[i%len(requests)](ctx, conns[i%len(conns)])
		if code := status.Code(err); code != codes.Unauthenticated && code != codes.Unavailable {
			t.Errorf("a stranger gets %v", err)
		}
	})
	transport := &http.Transport{TLSClientConfig: s.authority.Client(t, &s.other), DisableKeepAlives: true}
	transport.TLSClientConfig.MinVersion = tls.VersionTLS13
	together(ctx, 8, size(100, 3000), func(i int) {
		path := []string{"/v1/authorize?namespace=innocent&identifier=alice&policy=default", "/metrics", "/rlconfig", "/v1/should-allow", "/json"}[i%5]
		r, err := http.NewRequestWithContext(ctx, []string{http.MethodGet, http.MethodPost}[i%2], "https://"+d.HTTP+path, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Authorization", tokens[i%len(tokens)])
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Error(err)
			return
		}
		_ = answer.Body.Close()
		if answer.StatusCode < 400 || answer.StatusCode > 499 {
			t.Errorf("a stranger gets %d of %s", answer.StatusCode, path)
		}
	})
}
