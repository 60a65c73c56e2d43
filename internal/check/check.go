// Package check asks a running daemon one question, and prints its answer for a
// person or as JSON.
package check

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/connect"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// Strategies lists the strategies for a person.
func Strategies() string {
	names := make([]string, len(strategy.All))
	for i, s := range strategy.All {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}

// An Answer is what the daemon said.
type Answer interface {
	Allowed() bool
	Print(out io.Writer)           // for a person
	PrintJSON(out io.Writer) error // on one line
}

// response is the Answer to a request of our own API.
type response struct {
	*ratelimitv1.ShouldAllowResponse
}

// Ask asks the daemon at addr over link, and waits for its answer until ctx ends.
func Ask(ctx context.Context, addr string, link connect.Link, in *ratelimitv1.ShouldAllowRequest) (Answer, error) {
	conn, err := grpc.NewClient(addr, link.GRPC()...)
	if err != nil {
		return nil, fmt.Errorf("--addr %q: %w", addr, err)
	}
	defer func() { _ = conn.Close() }()
	answer, err := ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllow(ctx, in)
	if err != nil {
		return nil, askError(addr, err)
	}
	return response{answer}, nil
}

func askError(addr string, err error) error {
	st := status.Convert(err)
	return fmt.Errorf("ask %s: %s: %s", addr, st.Code(), st.Message())
}

// Allowed implements Answer.
func (r response) Allowed() bool { return r.GetAllowed() }

// PrintJSON implements Answer.
func (r response) PrintJSON(out io.Writer) error { return printJSON(out, r.ShouldAllowResponse) }

func printJSON(out io.Writer, m proto.Message) error {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}

// Print implements Answer.
func (r response) Print(out io.Writer) {
	answer := r.ShouldAllowResponse
	verdict := "denied"
	if answer.GetAllowed() {
		verdict = "allowed"
	}
	fmt.Fprintf(out, "%s (%s)\n", verdict, strings.ToLower(strings.ReplaceAll(answer.GetReason().String(), "_", " ")))
	if !answer.GetAllowed() && answer.GetReason() == ratelimitv1.Reason_OVER_LIMIT {
		if answer.GetRetryAfter() == nil {
			fmt.Fprintln(out, "  retry after: never, the cost is above what the limit ever allows")
		} else {
			fmt.Fprintf(out, "  retry after: %v\n", answer.GetRetryAfter().AsDuration())
		}
	}
	if answer.GetDelay() != nil {
		fmt.Fprintf(out, "  hold it for: %v\n", answer.GetDelay().AsDuration())
	}
	for _, st := range answer.GetStatuses() {
		printStatus(out, st)
	}
}

func printStatus(out io.Writer, st *ratelimitv1.LimitStatus) {
	name := st.GetName()
	if name == "" {
		name = "limit"
	}
	if st.GetLimit() == math.MaxUint64 {
		fmt.Fprintf(out, "  %s: unlimited\n", name)
		return
	}
	fmt.Fprintf(out, "  %s: %d of %d left", name, st.GetRemaining(), st.GetLimit())
	if reset := st.GetResetAfter().AsDuration(); reset > time.Duration(0) {
		fmt.Fprintf(out, ", all of them in %v", reset)
	}
	fmt.Fprintln(out)
}
