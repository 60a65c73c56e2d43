package daemon

import (
	"context"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/replay"
	"github.com/ratelimitd/ratelimitd/internal/server/console"
)

// Trials are those of package replay, for the console.
type Trials struct{}

var _ console.Trials = Trials{}

// Ask implements console.Trials.
func (Trials) Ask(ctx context.Context, policies *config.Policies, maxLogCount int64, b *decide.Batch) error {
	return replay.Ask(ctx, policies, maxLogCount, b)
}

// Replay implements console.Trials.
func (Trials) Replay(ctx context.Context, t *console.Trial) (console.Report, error) {
	return (*replay.Trial)(t).Run(ctx)
}
