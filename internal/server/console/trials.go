package console

import (
	"context"
	"encoding/json"
	"io"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
)

// Trials try a configuration beside the one in force. Package replay does.
type Trials interface {
	// Ask has policies decide a batch, with counters that nobody has used.
	Ask(ctx context.Context, policies *config.Policies, maxLogCount int64, b *decide.Batch) error
	// Replay replays a log.
	Replay(ctx context.Context, t *Trial) (Report, error)
}

// A Trial is a replay of one log.
type Trial struct {
	Policies *config.Policies // what is tried
	// Namespace, Policy and Identifier are as the flags of the command replay. The first two
	// name one that Policies have.
	Namespace, Policy, Identifier string

	Name string // what messages call the log
	Log  io.Reader
	// MaxIdentifiers is how many identifiers are told apart, and MaxKeys how many counters
	// there may be.
	MaxIdentifiers, MaxKeys int
	MaxLogCount             int64 // as --max-log-count
	Lines                   int   // the most of each list
}

// A Report is what a Trial has found: as JSON, and as a page.
type Report interface {
	json.Marshaler
	HTML(out io.Writer) error
}
