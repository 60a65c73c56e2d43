package apiv1

import (
	"context"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A Service does what the methods of the API do that are not called for each request
// of a service's own callers: so it does not use memory again. The errors are those of
// the core.
type Service struct{ Core *decide.Core }

// Reset forgets what an identifier has consumed.
func (s Service) Reset(ctx context.Context, in *ratelimitv1.ResetRequest) (*ratelimitv1.ResetResponse, error) {
	var d Decoder
	var r decide.Request
	d.Reset(&r, in)
	if err := s.Core.Reset(ctx, &r); err != nil {
		return nil, err
	}
	return &ratelimitv1.ResetResponse{}, nil
}
