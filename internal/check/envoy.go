package check

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// A descriptor is what Envoy asks about.
type descriptor struct {
	domain  string
	entries []string // key=value each
	hits    uint64   // 0 only looks
}

// check returns what is wrong with the entries of d, or nil.
func (d *descriptor) check() error {
	if len(d.entries) == 0 {
		return fmt.Errorf("--entry is missing; write --entry=user=alice")
	}
	for _, text := range d.entries {
		if key, _, ok := strings.Cut(text, "="); !ok || key == "" {
			return fmt.Errorf("--entry %s: write it as key=value, such as user=alice", quote.Cut(text))
		}
	}
	return nil
}

// envoyResponse is the reply to a request as Envoy makes it.
type envoyResponse struct{ *rlsv3.RateLimitResponse }

// askEnvoy asks about a descriptor as Envoy does, and waits for the answer until ctx ends.
func (d *daemon) askEnvoy(ctx context.Context, of *descriptor) (reply, error) {
	asked := &commonv3.RateLimitDescriptor{HitsAddend: wrapperspb.UInt64(of.hits)}
	for _, text := range of.entries {
		key, value, _ := strings.Cut(text, "=")
		asked.Entries = append(asked.Entries, &commonv3.RateLimitDescriptor_Entry{Key: key, Value: value})
	}
	answer, err := rlsv3.NewRateLimitServiceClient(d.conn).ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{
		Domain: of.domain, Descriptors: []*commonv3.RateLimitDescriptor{asked},
	})
	if err != nil {
		return nil, d.failed(err)
	}
	return envoyResponse{answer}, nil
}

// allowed implements reply.
func (r envoyResponse) allowed() bool {
	return r.GetOverallCode() != rlsv3.RateLimitResponse_OVER_LIMIT
}

// printJSON implements reply.
func (r envoyResponse) printJSON(out io.Writer) error { return printMessage(out, r.RateLimitResponse) }

// print implements reply.
func (r envoyResponse) print(out io.Writer) {
	verdict := "denied"
	if r.allowed() {
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
