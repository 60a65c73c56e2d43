package replay

import (
	"context"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
)

// What the tests that start a daemon have from here. The daemon has the console, which
// replays, so that they cannot be in this package.
const Policies = policies

// Start is when logs begin.
var Start = start

// A Watch is one decision of a replay.
type Watch struct {
	At         int64
	Identifier string
	Cost       uint64
	Outcome    decide.Outcome
}

// Watched replays a CSV log with the field cost, and calls watch for each decision.
func Watched(ctx context.Context, file, log string, watch func(Watch)) error {
	s := &settings{config: file, identifier: accesslog.ClientAddress, cost: "{cost}", zone: "UTC"}
	r := &run{names: []string{log}, who: subjects{byKey: map[string]*subject{}, most: 100}, now: time.Now()}
	replica, err := s.open("config", file, 0, nil)
	if err != nil {
		return err
	}
	defer replica.close()
	r.replicas = append(r.replicas, replica)
	if r.mapping, err = s.mapping(); err != nil {
		return err
	}
	r.watch = func(e event, got []decide.Outcome) { watch(Watch{e.at, e.who.identifier, e.cost, got[0]}) }
	_, err = r.do(ctx)
	return err
}
