package check

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/connect"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A daemon is a running one that can be asked.
type daemon struct {
	addr   string
	conn   *grpc.ClientConn
	client ratelimitv1.RateLimitServiceClient
}

// newDaemon returns the daemon at addr, which is reached over link. It connects with the
// first question. Close it.
func newDaemon(addr string, link connect.Link) (*daemon, error) {
	conn, err := grpc.NewClient(addr, link.GRPC()...)
	if err != nil {
		return nil, fmt.Errorf("--addr %q: %w", addr, err)
	}
	return &daemon{addr: addr, conn: conn, client: ratelimitv1.NewRateLimitServiceClient(conn)}, nil
}

// close ends the connection.
func (d *daemon) close() { _ = d.conn.Close() }

// ask asks whether a request is allowed, and waits for the answer until ctx ends.
func (d *daemon) ask(ctx context.Context, in *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
	answer, err := d.client.ShouldAllow(ctx, in)
	if err != nil {
		return nil, d.failed(err)
	}
	return answer, nil
}

// reserve asks whether a request is allowed whose cost is an estimate. The answer has
// what commit takes, unless it is denied.
func (d *daemon) reserve(ctx context.Context, in *ratelimitv1.ShouldAllowRequest) (reservation []byte, answer *ratelimitv1.ShouldAllowResponse, err error) {
	out, err := d.client.Reserve(ctx, &ratelimitv1.ReserveRequest{Request: in})
	if err != nil {
		return nil, nil, d.failed(err)
	}
	return out.GetReservation(), out.GetResponse(), nil
}

// commit settles a reservation with what was used. repeated says that it was settled
// before.
func (d *daemon) commit(ctx context.Context, reservation []byte, used uint64) (answer *ratelimitv1.ShouldAllowResponse, repeated bool, err error) {
	out, err := d.client.Commit(ctx, &ratelimitv1.CommitRequest{Reservation: reservation, Actual: used})
	if err != nil {
		return nil, false, d.failed(err)
	}
	return out.GetResponse(), out.GetRepeated(), nil
}

// reset has the daemon forget what an identifier has consumed.
func (d *daemon) reset(ctx context.Context, in *ratelimitv1.ResetRequest) error {
	_, err := d.client.Reset(ctx, in)
	return d.failed(err)
}

// failed says with which status a call failed, if it did.
func (d *daemon) failed(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	return fmt.Errorf("ask %s: %s: %s", d.addr, st.Code(), st.Message())
}
