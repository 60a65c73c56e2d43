package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func TestMain(m *testing.M) {
	// The Redis client looks once a second whether a server is back that it could
	// not dial, and notices that it was closed at the next look.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// A daemon is a Server that runs, and a client of it.
type daemon struct {
	*Server
	client   ratelimitv1.RateLimitServiceClient
	conn     *grpc.ClientConn
	registry *prometheus.Registry
	log      *lockedBuffer
	stop     func() error // stops it, waits, and returns what Serve did
}

// metric returns the value of the counter that has name and, among others, these
// labels, each name=value; -1 if there is none.
func (d *daemon) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := d.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			has := 0
			for _, l := range m.GetLabel() {
				if slices.Contains(labels, l.GetName()+"="+l.GetValue()) {
					has++
				}
			}
			if family.GetName() == name && has == len(labels) {
				return cmp.Or(m.GetCounter().GetValue(), m.GetGauge().GetValue())
			}
		}
	}
	return -1
}

// decisions returns how many of namespace checkout had an outcome.
func (d *daemon) decisions(t *testing.T, outcome string) float64 {
	t.Helper()
	return d.metric(t, "ratelimitd_decisions_total", "namespace=checkout", "outcome="+outcome)
}

// patient is a time that nothing takes on a loaded machine.
const patient = 20 * time.Second

// start runs a daemon until the test ends. Without a store it has one in
// memory, at midnight UTC forever.
func start(t testing.TB, o Options) *daemon {
	t.Helper()
	if o.Store == nil {
		s, err := memory.New(memory.Options{Now: func() strategy.Instant { return 1_767_225_600_000_000 }})
		if err != nil {
			t.Fatal(err)
		}
		o.Store, o.StoreName = s, "memory"
	}
	d := &daemon{registry: prometheus.NewRegistry(), log: new(lockedBuffer)}
	o.GRPCAddr, o.HTTPAddr = cmp.Or(o.GRPCAddr, "127.0.0.1:0"), cmp.Or(o.HTTPAddr, "127.0.0.1:0")
	o.Registry, o.Logger = d.registry, slog.New(slog.NewJSONHandler(d.log, nil))
	if o.DrainTimeout == 0 {
		o.DrainTimeout = patient
	}
	var err error
	if d.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	d.stop = sync.OnceValue(func() error { cancel(); return <-served })

	if d.conn, err = grpc.NewClient(d.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	d.client = ratelimitv1.NewRateLimitServiceClient(d.conn)
	t.Cleanup(func() {
		_ = d.conn.Close()
		if err := d.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return d
}

// get returns the status and the body of an HTTP page.
func (d *daemon) get(t *testing.T, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.HTTPAddr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	reply, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(body)
}

// A lockedBuffer is a buffer that several goroutines may use.
type lockedBuffer struct {
	mu  sync.Mutex // protects the following
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// lines returns how many lines have the message that starts with text.
func (b *lockedBuffer) lines(text string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range bytes.Lines(b.buf.Bytes()) {
		var entry struct{ Msg string }
		if json.Unmarshal(line, &entry) == nil && strings.HasPrefix(entry.Msg, text) {
			n++
		}
	}
	return n
}

// has reports whether text is in it.
func (b *lockedBuffer) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.buf.Bytes(), []byte(text))
}

func ask(identifier string, limits ...*ratelimitv1.Limit) *ratelimitv1.ShouldAllowRequest {
	return &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: identifier, Limits: limits}
}

func limit(rate string) *ratelimitv1.Limit { return &ratelimitv1.Limit{Rate: rate} }

func TestShouldAllow(t *testing.T) {
	d := start(t, Options{})
	bucket := &ratelimitv1.Limit{Rate: "1/s", Strategy: ratelimitv1.Strategy_LEAKY_BUCKET, Burst: 3, Name: "queue"}
	second := durationpb.New(time.Second)
	for i, step := range []struct {
		in   *ratelimitv1.ShouldAllowRequest
		want *ratelimitv1.ShouldAllowResponse
	}{
		{ask("alice", limit("2/min"), bucket), &ratelimitv1.ShouldAllowResponse{
			Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT,
			Statuses: []*ratelimitv1.LimitStatus{
				{Limit: 2, Remaining: 1, ResetAfter: durationpb.New(time.Minute), Allowed: true},
				{Name: "queue", Limit: 3, Remaining: 2, ResetAfter: second, Allowed: true},
			},
		}},
		{ask("alice", limit("2/min"), bucket), &ratelimitv1.ShouldAllowResponse{
			Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT, Delay: second,
			Statuses: []*ratelimitv1.LimitStatus{
				{Limit: 2, Remaining: 0, ResetAfter: durationpb.New(time.Minute), Allowed: true},
				{Name: "queue", Limit: 3, Remaining: 1, ResetAfter: durationpb.New(2 * time.Second), Allowed: true},
			},
		}},
		{ask("alice", limit("2/min"), bucket), &ratelimitv1.ShouldAllowResponse{
			Reason: ratelimitv1.Reason_OVER_LIMIT, RetryAfter: durationpb.New(time.Minute),
			Statuses: []*ratelimitv1.LimitStatus{
				{Limit: 2, Remaining: 0, ResetAfter: durationpb.New(time.Minute), RetryAfter: durationpb.New(time.Minute)},
				{Name: "queue", Limit: 3, Remaining: 1, ResetAfter: durationpb.New(2 * time.Second), Allowed: true},
			},
		}},
		{&ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: "bob", Limits: []*ratelimitv1.Limit{limit("2/min")}, Cost: proto.Uint64(3)}, &ratelimitv1.ShouldAllowResponse{
			Reason:   ratelimitv1.Reason_OVER_LIMIT,
			Statuses: []*ratelimitv1.LimitStatus{{Limit: 2, Remaining: 2, ResetAfter: durationpb.New(0)}},
		}},
		{&ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: "alice", Limits: []*ratelimitv1.Limit{limit("2/min")}, Cost: proto.Uint64(0)}, &ratelimitv1.ShouldAllowResponse{
			Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT,
			Statuses: []*ratelimitv1.LimitStatus{{Limit: 2, Remaining: 0, ResetAfter: durationpb.New(time.Minute), Allowed: true}},
		}},
		{ask("alice", limit("unlimited")), &ratelimitv1.ShouldAllowResponse{
			Allowed: true, Reason: ratelimitv1.Reason_UNLIMITED,
			Statuses: []*ratelimitv1.LimitStatus{{Limit: 1<<64 - 1, Remaining: 1<<64 - 1, ResetAfter: durationpb.New(0), Allowed: true}},
		}},
	} {
		got, err := d.client.ShouldAllow(t.Context(), step.in)
		if err != nil || !proto.Equal(undated(t, got), step.want) {
			t.Errorf("step %d:\n got %v, %v\nwant %v", i, got, err, step.want)
		}
	}
}

// undated returns a response without its decided_at, which must be there if a counter
// was asked.
func undated(t *testing.T, r *ratelimitv1.ShouldAllowResponse) *ratelimitv1.ShouldAllowResponse {
	t.Helper()
	counted := r.GetReason() == ratelimitv1.Reason_WITHIN_LIMIT || r.GetReason() == ratelimitv1.Reason_OVER_LIMIT || r.GetReason() == ratelimitv1.Reason_SHADOW
	if dated := r.GetDecidedAt().IsValid(); dated != counted {
		t.Errorf("decided_at %v of %v", r.GetDecidedAt(), r)
	}
	r = proto.CloneOf(r)
	if r != nil {
		r.DecidedAt = nil
	}
	return r
}

func TestInvalidRequests(t *testing.T) {
	d := start(t, Options{MaxLogCount: 500})
	valid := func(change func(*ratelimitv1.ShouldAllowRequest)) *ratelimitv1.ShouldAllowRequest {
		r := ask("alice", limit("5/s"))
		change(r)
		return r
	}
	type field struct{ name, says string }
	for name, tt := range map[string]struct {
		in   *ratelimitv1.ShouldAllowRequest
		want []field
	}{
		"nothing at all": {&ratelimitv1.ShouldAllowRequest{}, []field{
			{"namespace", `empty; give one, such as "checkout"`}, {"identifier", `empty; give one, such as "user:42"`}, {"limits", "no limits and no policy"},
		}},
		"long namespace": {valid(func(r *ratelimitv1.ShouldAllowRequest) { r.Namespace = strings.Repeat("n", 129) }), []field{
			{"namespace", "has 129 bytes; give 1 to 128"},
		}},
		"long identifier": {valid(func(r *ratelimitv1.ShouldAllowRequest) { r.Identifier = strings.Repeat("i", 1025) }), []field{
			{"identifier", `"iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii"... has 1025 bytes; give 1 to 1024`},
		}},
		"both": {valid(func(r *ratelimitv1.ShouldAllowRequest) { r.Policy = "default" }), []field{
			{"policy", `both policy "default" and limits`},
		}},
		"many limits": {valid(func(r *ratelimitv1.ShouldAllowRequest) {
			for i := range 16 {
				r.Limits = append(r.Limits, limit(fmt.Sprint(i, "/h")))
			}
		}), []field{{"limits", "more than 16 limits; give at most 16"}}},
		"bad limits": {ask("alice",
			limit("5/s"), limit("ten/s"), &ratelimitv1.Limit{}, nil,
			&ratelimitv1.Limit{Rate: "5/s", Burst: 7},
			&ratelimitv1.Limit{Rate: "5/s", Strategy: 7}, &ratelimitv1.Limit{Rate: "5/s", Strategy: -1}, &ratelimitv1.Limit{Rate: "5/s", Strategy: 257},
			&ratelimitv1.Limit{Rate: "5/s", Strategy: ratelimitv1.Strategy_GCRA, Burst: 1e9 + 1},
			&ratelimitv1.Limit{Rate: "501/s", Strategy: ratelimitv1.Strategy_SLIDING_WINDOW_LOG},
			&ratelimitv1.Limit{Rate: "5/s", Name: strings.Repeat("n", 129)},
		), []field{
			{"limits[5].strategy", "unknown strategy 7; use 1"},
			{"limits[6].strategy", "unknown strategy -1; use 1"},
			{"limits[7].strategy", "unknown strategy 257; use 1 (FIXED_WINDOW) to 6 (GCRA)"},
			{"limits[1].rate", `rate "ten/s": must start with a count, as in "100/min"`},
			{"limits[2].rate", `rate "": empty`},
			{"limits[3].rate", `rate "": empty`},
			{"limits[4].burst", "burst 7: fixed_window has none"},
			{"limits[8].burst", "burst 1000000001 is over 1000000000"},
			{"limits[9].rate", `caps its count at 500; use sliding_window_counter, or a rate such as "500/1s"`},
			{"limits[10].name", "has 129 bytes; a name has at most 128"},
		}},
		"the same limit twice": {ask("alice",
			limit("60/min"), limit("60 per 60 s"),
			&ratelimitv1.Limit{Rate: "1/s", Name: "a"}, &ratelimitv1.Limit{Rate: "2/s", Name: "a"},
			&ratelimitv1.Limit{Rate: "1/s", Name: "a", Strategy: ratelimitv1.Strategy_GCRA},
		), []field{
			{"limits[1]", "the same limit as another of this request: fixed_window of 60/1m"},
			{"limits[3]", `fixed_window named "a"`},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.client.ShouldAllow(t.Context(), tt.in)
			st := status.Convert(err)
			if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 {
				t.Fatalf("%v with details %v, want INVALID_ARGUMENT with one", err, st.Details())
			}
			got := st.Details()[0].(*errdetails.BadRequest).GetFieldViolations()
			if len(got) != len(tt.want) {
				t.Fatalf("%d violations: %v, want %d", len(got), got, len(tt.want))
			}
			for i, want := range tt.want {
				if got[i].GetField() != want.name || !strings.Contains(got[i].GetDescription(), want.says) {
					t.Errorf("violation %v, want of %s: %s", got[i], want.name, want.says)
				}
				if i < 3 && !strings.Contains(st.Message(), want.name+": "+got[i].GetDescription()) {
					t.Errorf("the message %q leaves out %v", st.Message(), got[i])
				}
			}
		})
	}
}

// TestErrorsFitInTrailers has a client that takes no more than 8 KiB of them.
func TestErrorsFitInTrailers(t *testing.T) {
	d := start(t, Options{})
	conn, err := grpc.NewClient(d.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithMaxHeaderListSize(8<<10))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	worst := ask(strings.Repeat("\x00", 2000), make([]*ratelimitv1.Limit, 16)...)
	worst.Policy = strings.Repeat("\x01", 1<<20)
	for i := range worst.GetLimits() {
		worst.Limits[i] = &ratelimitv1.Limit{Rate: strings.Repeat("\x02", 64), Name: strings.Repeat("\x03", 200), Burst: 1 << 40, Strategy: 99}
	}
	_, err = ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllow(t.Context(), worst)
	if st := status.Convert(err); st.Code() != codes.InvalidArgument || len(st.Details()) != 1 || !strings.Contains(st.Message(), "; and 64 more") {
		t.Errorf("%v, want INVALID_ARGUMENT", err)
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (rawCodec) Name() string                       { return "proto" }

// TestUndecodable sends what is not a message of the API: it is refused, counted and logged,
// and it harms nobody else.
func TestUndecodable(t *testing.T) {
	d := start(t, Options{})
	sent := 0.0
	for name, message := range map[string][]byte{
		"not protobuf":              []byte("\xff\xff\xff"),
		"cut off":                   []byte("\x0a\x7fcheckout"),
		"malformed unknown field":   []byte("\xfb\x07\x0a\x7f\xfc\x07"),
		"group closed and not open": []byte("\xfc\x07"),
	} {
		for _, method := range []string{ratelimitv1.RateLimitService_ShouldAllow_FullMethodName, ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName, ratelimitv1.RateLimitService_Reset_FullMethodName, healthpb.Health_Check_FullMethodName} {
			var reply []byte
			err := d.conn.Invoke(t.Context(), method, message, &reply, grpc.ForceCodec(rawCodec{}))
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "cannot be decoded") {
				t.Errorf("%s to %s: %v, want INVALID_ARGUMENT", name, method, err)
			}
			sent++
		}
		stream, err := d.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName, grpc.ForceCodec(rawCodec{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(message); err != nil {
			t.Fatal(err)
		}
		var reply []byte
		if err := stream.RecvMsg(&reply); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s on a stream: %v, want INVALID_ARGUMENT", name, err)
		}
		sent++
	}
	if n := d.metric(t, "ratelimitd_undecodable_messages_total"); n != sent || d.log.lines("a message cannot be decoded") != 1 {
		t.Errorf("%v are counted and %d logged, want %v and 1", n, d.log.lines("a message cannot be decoded"), sent)
	}
	if _, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("1/min"))); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestInvalidText sends each text of a request as what is not UTF-8, as a client
// in another language may.
func TestInvalidText(t *testing.T) {
	const placeholder, bad = "BadText", "\xc3(\x00\xff\xfe\xfd\xfc"
	d := start(t, Options{})
	ok := func() *ratelimitv1.ShouldAllowRequest { return ask("alice", limit("1/min")) }
	for field, spoil := range map[string]func(r *ratelimitv1.ShouldAllowRequest){
		"namespace":      func(r *ratelimitv1.ShouldAllowRequest) { r.Namespace = placeholder },
		"identifier":     func(r *ratelimitv1.ShouldAllowRequest) { r.Identifier = placeholder },
		"policy":         func(r *ratelimitv1.ShouldAllowRequest) { r.Policy, r.Limits = placeholder, nil },
		"limits[0].rate": func(r *ratelimitv1.ShouldAllowRequest) { r.Limits[0].Rate = placeholder },
		"limits[0].name": func(r *ratelimitv1.ShouldAllowRequest) { r.Limits[0].Name = placeholder },
	} {
		request := ok()
		spoil(request)
		wire := func(m proto.Message) []byte {
			data, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return bytes.ReplaceAll(data, []byte(placeholder), []byte(bad))
		}
		want := "InvalidArgument desc = invalid request: " + field + `: `
		for method, message := range map[string]proto.Message{
			ratelimitv1.RateLimitService_ShouldAllow_FullMethodName: request,
			ratelimitv1.RateLimitService_Reset_FullMethodName:       &ratelimitv1.ResetRequest{Namespace: request.GetNamespace(), Identifier: request.GetIdentifier(), Limits: request.GetLimits(), Policy: request.GetPolicy()},
		} {
			var reply []byte
			err := d.conn.Invoke(t.Context(), method, wire(message), &reply, grpc.ForceCodec(rawCodec{}))
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `\xc3(`) {
				t.Errorf("%s to %s: %v, want %s with the value", field, method, err, want)
			}
		}
		var reply []byte
		err := d.conn.Invoke(t.Context(), ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName,
			wire(&ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{request, ok()}}), &reply, grpc.ForceCodec(rawCodec{}))
		var results ratelimitv1.ShouldAllowBatchResponse
		if err = errors.Join(err, proto.Unmarshal(reply, &results)); err != nil {
			t.Fatalf("%s in a batch: %v", field, err)
		}
		if r := results.GetResults(); codes.Code(r[0].GetError().GetCode()) != codes.InvalidArgument || r[1].GetResponse() == nil {
			t.Errorf("%s in a batch: %v, want the one refused and the other answered", field, r)
		}
	}
}

func TestBatch(t *testing.T) {
	d := start(t, Options{})
	reply, err := d.client.ShouldAllowBatch(t.Context(), &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{
		ask("alice", limit("1/min")), ask("alice", limit("1/mn")), ask("alice", limit("1/min")), {}, ask("bob", limit("1/min")),
		{Namespace: "checkout", Identifier: "bob", Policy: "gold"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range reply.GetResults() {
		if e := r.GetError(); e != nil {
			got = append(got, codes.Code(e.GetCode()).String())
		} else {
			got = append(got, r.GetResponse().GetReason().String())
		}
	}
	if want := "WITHIN_LIMIT InvalidArgument OVER_LIMIT InvalidArgument WITHIN_LIMIT NotFound"; strings.Join(got, " ") != want {
		t.Errorf("results %v, want %s", got, want)
	}
	if st := status.FromProto(reply.GetResults()[1].GetError()); len(st.Details()) != 1 {
		t.Errorf("error %v has no details", st)
	}
}

func TestBatchSizes(t *testing.T) {
	d := start(t, Options{})
	for n, want := range map[int]codes.Code{0: codes.InvalidArgument, 1: codes.OK, 1000: codes.OK, 1001: codes.InvalidArgument} {
		in := &ratelimitv1.ShouldAllowBatchRequest{}
		for i := range n {
			r := ask(fmt.Sprintf("%01024d", i))
			for j := range 16 { // as large as requests come
				r.Limits = append(r.Limits, &ratelimitv1.Limit{Rate: fmt.Sprint(j, "/", strings.Repeat(" ", 60), "h"), Name: fmt.Sprintf("%0128d", j)})
			}
			in.Requests = append(in.Requests, r)
		}
		reply, err := d.client.ShouldAllowBatch(t.Context(), in, grpc.MaxCallRecvMsgSize(config.DefaultBounds().MessageBytes))
		if status.Code(err) != want || (err == nil && len(reply.GetResults()) != n) {
			t.Errorf("a batch of %d: %d results, %v; want %v", n, len(reply.GetResults()), err, want)
		}
	}
}

func TestStream(t *testing.T) {
	d := start(t, Options{})
	stream, err := d.client.ShouldAllowStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one := []*ratelimitv1.ShouldAllowRequest{ask("alice", limit("1/min"))}
	for _, in := range [][]*ratelimitv1.ShouldAllowRequest{one, {}, make([]*ratelimitv1.ShouldAllowRequest, 1001), one} {
		for i := range in {
			if in[i] == nil {
				in[i] = ask("bob", limit("1/min"))
			}
		}
		if err := stream.Send(&ratelimitv1.ShouldAllowBatchRequest{Requests: in}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"WITHIN_LIMIT",
		"invalid request: requests: no requests; send 1 to 1000 in a message",
		"invalid request: requests: more than 1000 requests; send 1 to 1000 in a message",
		"OVER_LIMIT",
	} {
		reply, err := stream.Recv()
		if err != nil || len(reply.GetResults()) != 1 {
			t.Fatalf("answer %d: %v, %v; want one result", i, reply, err)
		}
		result := reply.GetResults()[0]
		if got := result.GetResponse().GetReason().String(); got != want && result.GetError().GetMessage() != want {
			t.Errorf("answer %d: %v, want %s", i, result, want)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v, want EOF", err)
	}
}

func TestReset(t *testing.T) {
	d := start(t, Options{})
	in := ask("alice", limit("1/min"))
	for _, want := range []bool{true, false} {
		if reply, err := d.client.ShouldAllow(t.Context(), in); err != nil || reply.GetAllowed() != want {
			t.Fatalf("%v, %v; want allowed %t", reply, err, want)
		}
	}
	if _, err := d.client.Reset(t.Context(), &ratelimitv1.ResetRequest{Namespace: "checkout", Identifier: "alice", Limits: in.GetLimits()}); err != nil {
		t.Fatal(err)
	}
	if reply, err := d.client.ShouldAllow(t.Context(), in); err != nil || !reply.GetAllowed() {
		t.Errorf("after a reset: %v, %v; want allowed", reply, err)
	}
	if _, err := d.client.Reset(t.Context(), &ratelimitv1.ResetRequest{Namespace: "checkout"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a reset of nothing: %v, want INVALID_ARGUMENT", err)
	}
	if _, err := d.client.Reset(t.Context(), &ratelimitv1.ResetRequest{Namespace: "checkout", Identifier: "alice", Policy: "gold"}); status.Code(err) != codes.NotFound {
		t.Errorf("a reset of an unknown policy: %v, want NOT_FOUND", err)
	}
}

// noRedis returns a Redis store whose server is not there.
func noRedis(t *testing.T) store.Store {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	s, err := redis.New(redis.Options{URLs: []string{"redis://" + l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFailurePolicy(t *testing.T) {
	for onError, want := range map[policy.OnError]struct {
		allowed bool
		code    codes.Code
		outcome string
	}{
		"":               {allowed: true, outcome: "failed_open"},
		policy.FailAllow: {allowed: true, outcome: "failed_open"},
		policy.FailDeny:  {allowed: false, outcome: "failed_closed"},
		policy.FailError: {code: codes.Unavailable, outcome: "error"},
	} {
		t.Run("on_error "+string(onError), func(t *testing.T) {
			d := start(t, Options{Store: noRedis(t), StoreName: "redis", OnError: onError})
			for range 3 {
				reply, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("1/min")))
				if status.Code(err) != want.code || reply.GetAllowed() != want.allowed {
					t.Errorf("%v, %v; want allowed %t, %v", reply, err, want.allowed, want.code)
				}
				if err == nil && reply.GetReason() != ratelimitv1.Reason_STORE_FAILURE {
					t.Errorf("reason %v, want STORE_FAILURE", reply.GetReason())
				}
			}
			if n := d.decisions(t, want.outcome); n != 3 {
				t.Errorf("%v decisions with outcome %s, want 3", n, want.outcome)
			}
			// The server's own look at the store may be what logs it, and may be slow to.
			for end := time.Now().Add(patient); d.log.lines("the store fails") == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if n := d.log.lines("the store fails"); n != 1 {
				t.Errorf("%d log lines on 3 failures, want 1", n)
			}
			hot := d.book.HotKeys(1)[0]
			if deny := onError == policy.FailDeny; hot.Namespace != "checkout" || len(hot.Asked) != 1 || (len(hot.Denied) == 1) != deny {
				t.Errorf("hot keys %+v; want alice, denied %t", hot, deny)
			}
			if _, err := d.client.Reset(t.Context(), &ratelimitv1.ResetRequest{Namespace: "checkout", Identifier: "alice", Limits: []*ratelimitv1.Limit{limit("1/min")}}); status.Code(err) != codes.Unavailable {
				t.Errorf("Reset: %v, want UNAVAILABLE", err)
			}
			// What needs no store does not mind.
			if reply, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("unlimited"))); err != nil || reply.GetReason() != ratelimitv1.Reason_UNLIMITED {
				t.Errorf("unlimited: %v, %v", reply, err)
			}
		})
	}
}

func TestFailLocal(t *testing.T) {
	local, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, Options{Store: noRedis(t), StoreName: "redis", OnError: policy.FailLocal, Fallback: local})
	for _, want := range []bool{true, true, false, false} {
		reply, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("2/366d")))
		if err != nil || reply.GetAllowed() != want || reply.GetReason() != ratelimitv1.Reason_STORE_FAILURE {
			t.Errorf("%v, %v; want STORE_FAILURE with allowed %t", reply, err, want)
		}
		if st := reply.GetStatuses(); len(st) != 1 || st[0].GetLimit() != 2 || (reply.GetRetryAfter() == nil) != want {
			t.Errorf("%v; want what the local counter says", reply)
		}
	}
	for outcome, want := range map[string]float64{"local_allowed": 2, "local_denied": 2} {
		if n := d.decisions(t, outcome); n != want {
			t.Errorf("%v decisions with outcome %s, want %v", n, outcome, want)
		}
	}
}

// TestReadyWithoutStore asks for readiness while the store is not there.
func TestReadyWithoutStore(t *testing.T) {
	for onError, want := range map[policy.OnError]int{policy.FailAllow: 200, policy.FailDeny: 200, policy.FailError: 503} {
		d := start(t, Options{Store: noRedis(t), StoreName: "redis", OnError: onError})
		if code, body := d.get(t, "/readyz"); code != want {
			t.Errorf("on_error %s: /readyz: %d %q, want %d", onError, code, body, want)
		}
	}
}

// A panickingStore stands for a defect of ours.
type panickingStore struct{ store.Store }

func (panickingStore) Decide(context.Context, []store.Request, []store.Result) { panic("a defect") }
func (panickingStore) Health(context.Context) error                            { return nil }
func (panickingStore) Close() error                                            { return nil }

func TestPanicHarmsOneCallOnly(t *testing.T) {
	d := start(t, Options{Store: panickingStore{}, StoreName: "memory"})
	for range 2 {
		if _, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("1/min"))); status.Code(err) != codes.Internal {
			t.Errorf("%v, want INTERNAL", err)
		}
	}
	stream, err := d.client.ShouldAllowStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{ask("alice", limit("1/min"))}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("on a stream: %v, want INTERNAL", err)
	}
	if n := d.book.Panics.Load(); n != 3 || d.log.lines("a call panicked") != 1 {
		t.Errorf("%v panics counted and %d logged, want 3 and 1", n, d.log.lines("a call panicked"))
	}
}

func TestMetrics(t *testing.T) {
	d := start(t, Options{})
	for i := range 100 + 50 {
		in := ask("alice", limit("1/min"))
		in.Namespace = fmt.Sprintf("namespace %d", i)
		if i == 1 {
			in.Namespace = account.Others
		}
		for range 2 {
			if _, err := d.client.ShouldAllow(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
	}
	code, page := d.get(t, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics: %d", code)
	}
	for _, want := range []string{
		`ratelimitd_decisions_total{namespace="namespace 0",outcome="allowed"} 1`,
		`ratelimitd_decisions_total{namespace="namespace 0",outcome="denied"} 1`,
		`ratelimitd_decisions_total{namespace="namespace 99",outcome="denied"} 1`,
		`ratelimitd_decisions_total{namespace="other",outcome="allowed"} 50`, // one of them was so named,
		`ratelimitd_limit_checks_total{outcome="allowed",strategy="fixed_window"} 150`,
		`ratelimitd_limit_checks_total{outcome="denied",strategy="fixed_window"} 150`,
		`ratelimitd_limit_decisions_total{limit="",namespace="namespace 0",outcome="denied",policy=""} 1`,
		`ratelimitd_request_duration_seconds_count{method="ShouldAllow"} 300`,
		`grpc_server_started_total{grpc_method="/ratelimit.v1.RateLimitService/ShouldAllow",grpc_type="unary"} 300`,
		`grpc_server_handled_total{grpc_code="OK",grpc_method="/ratelimit.v1.RateLimitService/ShouldAllow",grpc_type="unary"} 300`,
		`ratelimitd_store_errors_total{store="memory"} 0`,
		`ratelimitd_refused_requests_total 0`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("/metrics has no line %q", want)
		}
	}
	if n := strings.Count(page, `outcome="allowed"} `); n != 101 {
		t.Errorf("%d namespaces have a label value, want the others and 100", n)
	}
	if problems, err := testutil.GatherAndLint(d.registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestHTTP(t *testing.T) {
	d := start(t, Options{})
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/healthz": {200, "ok"}, "/readyz": {200, "ready"}, "/": {200, "/metrics"}, "/nothing": {404, "not found"},
	} {
		if code, body := d.get(t, path); code != want.code || !strings.Contains(body, want.body) {
			t.Errorf("GET %s: %d %q, want %d %q", path, code, body, want.code, want.body)
		}
	}
}

func TestHealthService(t *testing.T) {
	d := start(t, Options{})
	for _, service := range []string{"", "ratelimit.v1.RateLimitService"} {
		reply, err := healthpb.NewHealthClient(d.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, reply, err)
		}
	}
}

// TestShutdown stops a daemon while streams of all its services are open and
// idle: health says so first, and then they end.
func TestShutdown(t *testing.T) {
	d := start(t, Options{DrainTimeout: patient})
	watch, err := healthpb.NewHealthClient(d.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := watch.Recv(); err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v; want SERVING", reply, err)
	}
	stream, err := d.client.ShouldAllowStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{ask("alice", limit("1/min"))}}
	if err := stream.Send(in); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}

	listing, err := reflectionpb.NewServerReflectionClient(d.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := listing.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := listing.Recv(); err != nil {
		t.Fatal(err)
	}

	stopped := make(chan error, 1)
	go func() { stopped <- d.stop() }()
	if reply, err := watch.Recv(); err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v, %v; want NOT_SERVING", reply, err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("the idle stream: %v, want UNAVAILABLE as the server is stopping", err)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the health watch: %v, want UNAVAILABLE", err)
	}
	if _, err := listing.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the open reflection: %v, want UNAVAILABLE", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if d.log.lines("calls are still under way") != 0 {
		t.Error("the shutdown took the whole drain timeout")
	}
}

// TestShutdownAnswersWhatIsUnderWay stops a daemon again and again under load:
// every call is answered or refused as the daemon is gone, and none is lost in
// between.
func TestShutdownUnderLoad(t *testing.T) {
	d := start(t, Options{DrainTimeout: patient})
	var callers sync.WaitGroup
	answered := make(chan struct{}, 1)
	for range 8 {
		callers.Go(func() {
			for {
				_, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("1/min")))
				if err != nil {
					if status.Code(err) != codes.Unavailable {
						t.Errorf("a call got %v, want an answer or UNAVAILABLE", err)
					}
					return
				}
				select {
				case answered <- struct{}{}:
				default:
				}
			}
		})
	}
	<-answered
	if err := d.stop(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	callers.Wait()
}

func TestNewRefusesAddresses(t *testing.T) {
	d := start(t, Options{})
	const taken = ": another process listens there"
	for want, o := range map[string]Options{
		"--grpc-addr \"" + d.GRPCAddr() + "\"" + taken: {GRPCAddr: d.GRPCAddr(), HTTPAddr: "127.0.0.1:0"},
		"--http-addr \"" + d.HTTPAddr() + "\"" + taken: {GRPCAddr: "127.0.0.1:0", HTTPAddr: d.HTTPAddr()},
		"--grpc-addr \"nonsense\"":                     {GRPCAddr: "nonsense", HTTPAddr: "127.0.0.1:0"},
	} {
		s, err := memory.New(memory.Options{})
		if err != nil {
			t.Fatal(err)
		}
		o.Store, o.Logger, o.Registry = s, slog.New(slog.DiscardHandler), prometheus.NewRegistry()
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%q, %q): %v, want %s", o.GRPCAddr, o.HTTPAddr, err, want)
		}
	}
}

// TestShutdownDelay has a server told to stop: it answers on while everybody is told that
// it is not serving.
func TestShutdownDelay(t *testing.T) {
	d := start(t, Options{ShutdownDelay: 10 * time.Second, DrainTimeout: patient})
	watch, err := healthpb.NewHealthClient(d.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := watch.Recv(); err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("before: %v, %v", reply, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- d.stop() }()
	if reply, err := watch.Recv(); err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Fatalf("after: %v, %v", reply, err)
	}
	if code, body := d.get(t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	conn, err := grpc.NewClient(d.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	in := &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: "alice", Limits: []*ratelimitv1.Limit{{Rate: "1/min"}}}
	if out, err := ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllow(t.Context(), in); err != nil || !out.GetAllowed() {
		t.Errorf("a new connection is not answered: %v, %v", out, err)
	}
	select {
	case err := <-stopped:
		t.Errorf("it has stopped already: %v", err)
	default:
	}
}
