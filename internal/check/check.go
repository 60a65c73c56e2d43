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

// A Daemon is a running one that can be asked.
type Daemon struct {
	addr   string
	conn   *grpc.ClientConn
	client ratelimitv1.RateLimitServiceClient
}

// Connect returns the daemon at addr, which is reached over link. It connects with the
// first question. Close it.
func Connect(addr string, link connect.Link) (*Daemon, error) {
	conn, err := grpc.NewClient(addr, link.GRPC()...)
	if err != nil {
		return nil, fmt.Errorf("--addr %q: %w", addr, err)
	}
	return &Daemon{addr: addr, conn: conn, client: ratelimitv1.NewRateLimitServiceClient(conn)}, nil
}

// Close ends the connection.
func (d *Daemon) Close() { _ = d.conn.Close() }

// Ask asks whether a request is allowed, and waits for the answer until ctx ends.
func (d *Daemon) Ask(ctx context.Context, in *ratelimitv1.ShouldAllowRequest) (Answer, error) {
	answer, err := d.client.ShouldAllow(ctx, in)
	if err != nil {
		return nil, d.failed(err)
	}
	return response{answer}, nil
}

// Reserve asks whether a request is allowed whose cost is an estimate. The answer has
// what Commit takes, unless it is denied.
func (d *Daemon) Reserve(ctx context.Context, in *ratelimitv1.ShouldAllowRequest) (reservation []byte, answer Answer, err error) {
	out, err := d.client.Reserve(ctx, &ratelimitv1.ReserveRequest{Request: in})
	if err != nil {
		return nil, nil, d.failed(err)
	}
	return out.GetReservation(), response{out.GetResponse()}, nil
}

// Commit settles a reservation with what was used. repeated says that it was settled
// before.
func (d *Daemon) Commit(ctx context.Context, reservation []byte, used uint64) (answer Answer, repeated bool, err error) {
	out, err := d.client.Commit(ctx, &ratelimitv1.CommitRequest{Reservation: reservation, Actual: used})
	if err != nil {
		return nil, false, d.failed(err)
	}
	return response{out.GetResponse()}, out.GetRepeated(), nil
}

// Reset has the daemon forget what an identifier has consumed.
func (d *Daemon) Reset(ctx context.Context, in *ratelimitv1.ResetRequest) error {
	_, err := d.client.Reset(ctx, in)
	return d.failed(err)
}

// failed says with which status a call failed, if it did.
func (d *Daemon) failed(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	return fmt.Errorf("ask %s: %s: %s", d.addr, st.Code(), st.Message())
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
