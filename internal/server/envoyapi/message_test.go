package envoyapi

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// full has a value in every field.
var full = &rlsv3.RateLimitRequest{Domain: "edge", HitsAddend: 3, Descriptors: []*commonv3.RateLimitDescriptor{
	{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "user", Value: "alice"}, {Key: "empty"}}, HitsAddend: wrapperspb.UInt64(1 << 40), IsNegativeHits: true},
	{
		Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "page", Value: "/"}},
		Limit:   &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 7, Unit: typev3.RateLimitUnit_HOUR, UnitMultiplier: wrapperspb.UInt32(2)},
	},
	{Limit: &commonv3.RateLimitDescriptor_RateLimitOverride{UnitMultiplier: wrapperspb.UInt32(0)}, HitsAddend: wrapperspb.UInt64(0)},
}}

func encoded(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// FuzzDecodeWire holds the decoder to the generated one: what that takes, it
// takes too, and reads the same.
func FuzzDecodeWire(f *testing.F) {
	f.Add(encoded(f, full))
	f.Add(encoded(f, &rlsv3.RateLimitRequest{}))
	f.Add([]byte("\x12\x02\x12\x00\x12\x04\x12\x02\x08\x01\x0b\x0c"))
	f.Add([]byte("\x12\x0a\x12\x04\x1a\x02\x08\x30\x12\x02\x1a\x00")) // a limit in two parts
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want request
		gotErr := got.DecodeWire(data)
		var message rlsv3.RateLimitRequest
		if proto.Unmarshal(data, &message) != nil {
			return // or a text that is not UTF-8
		}
		if gotErr != nil {
			t.Fatalf("%v, of what is valid: %v", gotErr, &message)
		}
		want.fromMessage(&message)
		if got.tooMany == "" && !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
	})
}

// TestBytesInTexts has texts that are not UTF-8: they are kept apart, and shown
// escaped.
func TestBytesInTexts(t *testing.T) {
	seen := map[string]bool{}
	for _, key := range []string{"\xff", "\xfe", `\xff`, "%FF"} {
		data := encoded(t, &rlsv3.RateLimitRequest{Domain: "edge", Descriptors: []*commonv3.RateLimitDescriptor{
			{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "api_key", Value: strings.Repeat("?", len(key))}}},
		}})
		data = []byte(strings.Replace(string(data), strings.Repeat("?", len(key)), key, 1))
		var r request
		if err := r.DecodeWire(data); err != nil {
			t.Fatalf("%q: %v", key, err)
		}
		if got := r.entries[0].Value; got != key {
			t.Errorf("%q is read as %q", key, got)
		}
		id := envoy.Override("edge", r.entries, nil).Identifier
		if seen[id] {
			t.Errorf("%q is the identifier %s, which another is too", key, id)
		}
		seen[id] = true
		if shown := r.descriptorValue(r.descriptors[0]).GetStructValue().GetFields()["entries"].GetListValue().GetValues()[0]; !proto.Equal(shown, shown) || len(encoded(t, shown)) == 0 {
			t.Errorf("%q cannot be shown", key)
		}
	}
}

// TestTooManyElements has messages that would take many times their size.
func TestTooManyElements(t *testing.T) {
	for what, data := range map[string][]byte{
		"descriptors": []byte(strings.Repeat("\x12\x00", 1<<20)),
		"entries":     append([]byte("\x12\x80\x80\x80\x01"), strings.Repeat("\x0a\x00", 1<<20)...),
	} {
		var r request
		if err := r.DecodeWire(data); err != nil || r.tooMany == "" || len(r.descriptors) > maxDescriptors || len(r.entries) > maxEntries {
			t.Errorf("%s: %v and %q, with %d descriptors and %d entries", what, err, r.tooMany, len(r.descriptors), len(r.entries))
		}
	}
}

// BenchmarkShouldRateLimit times a request from the bytes to the message: what
// gRPC adds is not in it.
func BenchmarkShouldRateLimit(b *testing.B) {
	counters, err := memory.New(memory.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = counters.Close() }()
	book := account.New(decide.Outcomes, time.Now)
	a := New(Options{
		Core:    decide.New(decide.Options{Store: counters, Book: book, Logger: slog.New(slog.DiscardHandler)}),
		Book:    book,
		Latency: histogram.NewVec("test", "test", "method", Method).Of(Method),
	})
	file, root := yamlfile.Parse("edge.yaml", []byte("domain: edge\ndescriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 1000000000}}]"))
	reader := envoy.NewReader(envoy.Options{MaxLogCount: strategy.DefaultMaxLogCount})
	reader.Read("edge.yaml", root)
	if err := file.Err(); err != nil {
		b.Fatal(err)
	}
	a.SetConfig(reader.Config)
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprintf("descriptors=%d", n), func(b *testing.B) {
			message := &rlsv3.RateLimitRequest{Domain: "edge"}
			for range n {
				message.Descriptors = append(message.Descriptors, &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "user", Value: "alice"}}})
			}
			data := encoded(b, message)
			b.ReportAllocs()
			for b.Loop() {
				in := new(request)
				if err := in.DecodeWire(data); err != nil {
					b.Fatal(err)
				}
				if _, err := a.shouldRateLimit(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
