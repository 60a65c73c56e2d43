package replay

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
)

// A Trial is a replay of one log, for a program that shows the result itself.
type Trial struct {
	Policies *config.Policies // what is tried
	// Namespace, Policy and Identifier are as the flags of the command. The first two name
	// one that Policies have.
	Namespace, Policy, Identifier string

	Name string // what messages call the log
	Log  io.Reader
	// MaxIdentifiers is how many identifiers are told apart, and MaxKeys how many counters
	// there may be.
	MaxIdentifiers, MaxKeys int
	MaxLogCount             int64 // as --max-log-count
	Lines                   int   // the most of each list
}

// A Result is what a Trial has found.
type Result struct{ *report }

// MarshalJSON returns what the command prints with --json.
func (r Result) MarshalJSON() ([]byte, error) { return json.Marshal(r.report) }

// HTML writes the page that the command writes with --html.
func (r Result) HTML(out io.Writer) error { return r.printHTML(out) }

// Ask has policies decide a batch, with counters that nobody has used.
func Ask(ctx context.Context, policies *config.Policies, maxLogCount int64, b *decide.Batch) error {
	p, err := newReplica(0, replicaOptions{policies: policies, memory: memory.Options{MaxKeys: maxAskKeys, MaxLogCount: maxLogCount}, onError: policy.FailAllow}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer p.close()
	p.clock.Store(time.Now().UnixMicro())
	p.core.Decide(ctx, b)
	return nil
}

// maxAskKeys is more than one batch of a few requests needs.
const maxAskKeys = 10_000

// Run replays the log, until ctx ends.
func (t *Trial) Run(ctx context.Context) (Result, error) {
	s := &settings{namespace: t.Namespace, policy: t.Policy, identifier: t.Identifier, cost: "1", zone: "UTC", set: new(flags.Set)}
	m, err := s.newMapping()
	if err != nil {
		return Result{}, err
	}
	p, err := newReplica(0, replicaOptions{policies: t.Policies, memory: memory.Options{MaxKeys: t.MaxKeys, MaxLogCount: t.MaxLogCount}, onError: policy.FailAllow}, slog.New(slog.DiscardHandler))
	if err != nil {
		return Result{}, err
	}
	defer p.close()
	r := &run{
		names: []string{stdinName}, stdin: t.Log, mapping: m, now: time.Now(), lines: t.Lines,
		replicas: []*replica{p}, who: newSubjects(t.MaxIdentifiers),
	}
	if err := r.do(ctx); err != nil {
		return Result{}, err
	}
	found := newReport(r)
	for i := range found.Files {
		found.Files[i].Name = t.Name
	}
	for i := range found.Lines {
		if place, ok := strings.CutPrefix(found.Lines[i].Example, stdinName+":"); ok {
			found.Lines[i].Example = t.Name + ":" + place
		}
	}
	return Result{found}, nil
}
