package check

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ratelimitd/ratelimitd/internal/connect"
	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// A Descriptor is what Envoy asks about.
type Descriptor struct {
	Domain  string
	Entries []string // key=value each
	Hits    uint64   // 0 only looks
}

// Check returns what is wrong with the entries of d, or nil.
func (d *Descriptor) Check() error {
	if len(d.Entries) == 0 {
		return fmt.Errorf("--entry is missing; write --entry=user=alice")
	}
	for _, text := range d.Entries {
		if key, _, ok := strings.Cut(text, "="); !ok || key == "" {
			return fmt.Errorf("--entry %s: write it as key=value, such as user=alice", quote.Cut(text))
		}
	}
	return nil
}

// envoyResponse is the Answer to a request as Envoy makes it.
type envoyResponse struct{ *rlsv3.RateLimitResponse }

// AskEnvoy asks the daemon at addr over link about a descriptor, as Envoy does.
func AskEnvoy(ctx context.Context, addr string, link connect.Link, d *Descriptor) (Answer, error) {
	conn, err := grpc.NewClient(addr, link.GRPC()...)
	if err != nil {
		return nil, fmt.Errorf("--addr %q: %w", addr, err)
	}
	defer func() { _ = conn.Close() }()
	descriptor := &commonv3.RateLimitDescriptor{HitsAddend: wrapperspb.UInt64(d.Hits)}
	for _, text := range d.Entries {
		key, value, _ := strings.Cut(text, "=")
		descriptor.Entries = append(descriptor.Entries, &commonv3.RateLimitDescriptor_Entry{Key: key, Value: value})
	}
	answer, err := rlsv3.NewRateLimitServiceClient(conn).ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{
		Domain: d.Domain, Descriptors: []*commonv3.RateLimitDescriptor{descriptor},
	})
	if err != nil {
		return nil, askError(addr, err)
	}
	return envoyResponse{answer}, nil
}

// Allowed implements Answer.
func (r envoyResponse) Allowed() bool {
	return r.GetOverallCode() != rlsv3.RateLimitResponse_OVER_LIMIT
}

// PrintJSON implements Answer.
func (r envoyResponse) PrintJSON(out io.Writer) error { return printJSON(out, r.RateLimitResponse) }

// Print implements Answer.
func (r envoyResponse) Print(out io.Writer) {
	verdict := "denied"
	if r.Allowed() {
		verdict = "allowed"
	}
	fmt.Fprintf(out, "%s (%s)\n", verdict, strings.ToLower(strings.ReplaceAll(r.GetOverallCode().String(), "_", " ")))
	for _, st := range r.GetStatuses() {
		switch l := st.GetCurrentLimit(); {
		case l != nil:
			fmt.Fprintf(out, "  %d of %d left", st.GetLimitRemaining(), l.GetRequestsPerUnit())
			unit := strings.ToLower(l.GetUnit().String())
			if m := l.GetUnitMultiplier(); m != nil {
				unit = fmt.Sprint(m.GetValue(), " ", unit, "s")
			}
			fmt.Fprintf(out, " per %s, reset in %v\n", unit, st.GetDurationUntilReset().AsDuration())
		case st.GetLimitRemaining() == math.MaxUint32:
			fmt.Fprintln(out, "  not limited")
		default:
			fmt.Fprintln(out, "  no limit applies to this descriptor")
		}
	}
}
