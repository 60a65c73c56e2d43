package target

import (
	"context"
	"log/slog"
	"time"

	"github.com/ratelimitd/ratelimitd/client"
)

// newClient returns the client that services in Go have, on one connection. It asks each
// time: what it remembers is not what is measured.
func newClient(o *Options) (*client.Client, error) {
	return client.New(client.Options{
		Addresses: []string{o.Addr}, Dial: o.Link.GRPC(), MaxDenials: -1, Timeout: time.Second,
		Logger: slog.New(slog.DiscardHandler), // errors are counted
	})
}

// limiterOf returns what a session of the client asks.
func limiterOf(c *client.Client, o *Options) *client.Limiter {
	if o.Policy != "" {
		return c.Policy(o.Namespace, o.Policy)
	}
	var limits []client.Limit
	for _, l := range o.Limits {
		limits = append(limits, client.Limit{Rate: l.GetRate(), Strategy: client.Strategy(l.GetStrategy()), Burst: l.GetBurst(), Name: l.GetName()})
	}
	return c.Limiter(o.Namespace, limits...)
}

type clientSession struct {
	limiter *client.Limiter
	cost    uint64
}

func (s *clientSession) Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error {
	r := s.limiter.Allow(ctx, identifiers[0], s.cost)
	switch {
	case r.Err != nil:
		return r.Err
	case r.Reason == client.ReasonStoreFailure:
		verdicts[0] = StoreFailed
	case r.Allowed:
		verdicts[0] = Allowed
	default:
		verdicts[0] = Denied
	}
	return nil
}
