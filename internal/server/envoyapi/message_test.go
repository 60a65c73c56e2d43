package envoyapi

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protowire"
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
		got.fields = 0 // of the wire alone
		if got.tooMany == "" && !reflect.DeepEqual(got, want) {
			t.Fatalf("got %s\nwant %s", shownRequest(&got), shownRequest(&want))
		}
	})
}

// shownRequest returns r with what its pointers point to.
func shownRequest(r *request) string {
	var text strings.Builder
	fmt.Fprintf(&text, "domain %q, hits %d, too many %q", r.domain, r.hits, r.tooMany)
	for i := range r.descriptors {
		d := &r.descriptors[i]
		fmt.Fprintf(&text, "\n  entries %q, negative %t", r.entriesOf(d), d.negative)
		if d.hits != nil {
			fmt.Fprintf(&text, ", hits %d", *d.hits)
		}
		if d.limit != nil {
			fmt.Fprintf(&text, ", limit of %d, unit %d", d.limit.requests, d.limit.unit)
			if d.limit.multiplier != nil {
				fmt.Fprintf(&text, ", multiplier %d", *d.limit.multiplier)
			}
		}
	}
	return text.String()
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
		id := envoy.Override("edge", r.entries, nil, "").Identifier
		if seen[id] {
			t.Errorf("%q is the identifier %s, which another is too", key, id)
		}
		seen[id] = true
		if shown := r.descriptorValue(r.descriptors[0]).GetStructValue().GetFields()["entries"].GetListValue().GetValues()[0]; !proto.Equal(shown, shown) || len(encoded(t, shown)) == 0 {
			t.Errorf("%q cannot be shown", key)
		}
	}
}

// TestTooManyFields has messages of many fields, in each message that a message has, and
// the largest one that is valid.
func TestTooManyFields(t *testing.T) {
	unknown := strings.Repeat("\xf8\x07\x01", maxFields+1)
	inside := func(tag byte, text string) string {
		return string(protowire.AppendString([]byte{tag}, text))
	}
	for what, data := range map[string]string{
		"a request":        unknown,
		"a descriptor":     inside(0x12, unknown),
		"an entry":         inside(0x12, inside(0x0a, unknown)),
		"an override":      inside(0x12, inside(0x12, unknown)),
		"hits":             inside(0x12, inside(0x1a, unknown)),
		"all together":     strings.Repeat(inside(0x12, strings.Repeat("\xf8\x07\x01", 1000)), 401),
		"many descriptors": strings.Repeat("\x12\x00", maxFields+1),
	} {
		var r request
		if err := r.DecodeWire([]byte(data)); !errors.Is(err, errTooManyFields) {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
	entry := &commonv3.RateLimitDescriptor_Entry{Key: "user", Value: "alice"}
	descriptor := &commonv3.RateLimitDescriptor{Entries: slices.Repeat([]*commonv3.RateLimitDescriptor_Entry{entry}, maxEntries), HitsAddend: wrapperspb.UInt64(2)}
	largest := encoded(t, &rlsv3.RateLimitRequest{Domain: "edge", Descriptors: slices.Repeat([]*commonv3.RateLimitDescriptor{descriptor}, maxDescriptors)})
	var r request
	if err := r.DecodeWire(largest); err != nil || r.tooMany != "" {
		t.Errorf("the largest request: %v, %s", err, r.tooMany)
	}
}

// TestTooManyElements has messages that would take many times their size.
func TestTooManyElements(t *testing.T) {
	for what, data := range map[string][]byte{
		"descriptors": []byte(strings.Repeat("\x12\x00", 1<<18)),
		"entries":     append([]byte("\x12\x80\x80\x20"), strings.Repeat("\x0a\x00", 1<<18)...),
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
