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
	"github.com/ratelimitd/ratelimitd/internal/server/console"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// Trials are trials for the console of a daemon.
type Trials struct{}

var _ console.Trials = Trials{}

// A result is what a trial has found.
type result struct{ *report }

// MarshalJSON returns what the command prints with --json.
func (r result) MarshalJSON() ([]byte, error) { return json.Marshal(r.report) }

// HTML writes the page that the command writes with --html.
func (r result) HTML(out io.Writer) error { return r.printHTML(out) }

// Ask implements console.Trials.
func (Trials) Ask(ctx context.Context, policies *config.Policies, maxLogCount int64, b *decide.Batch) error {
	p, err := newReplica(0, replicaOptions{policies: policies, memory: memory.Options{MaxKeys: maxAskKeys, MaxLogCount: maxLogCount}, onError: policy.FailAllow, logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer p.close()
	p.lanes[0].store.now = strategy.InstantOf(time.Now())
	p.lanes[0].core.Decide(ctx, b)
	return nil
}

// maxAskKeys is more than one batch of a few requests needs.
const maxAskKeys = 10_000

// Replay implements console.Trials.
func (Trials) Replay(ctx context.Context, t *console.Trial) (console.Report, error) {
	s := &settings{namespace: t.Namespace, policy: t.Policy, identifier: t.Identifier, cost: "1", zone: "UTC", set: new(flags.Set)}
	m, err := s.newMapping()
	if err != nil {
		return nil, err
	}
	p, err := newReplica(0, replicaOptions{policies: t.Policies, memory: memory.Options{MaxKeys: t.MaxKeys, MaxLogCount: t.MaxLogCount}, onError: policy.FailAllow, logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer p.close()
	r := &run{
		names: []string{stdinName}, stdin: t.Log, mapping: m, now: time.Now(), lines: t.Lines,
		replicas: []*replica{p}, who: newSubjects(t.MaxIdentifiers),
	}
	if err := r.do(ctx); err != nil {
		return nil, err
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
	return result{found}, nil
}
