package replay

import (
	"log/slog"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
)

// A replica decides as a daemon of one configuration would. It has a daemon's store in memory,
// and a daemon's core in each of its lanes.
type replica struct {
	index   int // of its side of a subject
	options replicaOptions
	store   *memory.Store
	lanes   []*lane
	ledger  // of all lanes, once they have been joined
}

// replicaOptions say what a daemon is told.
type replicaOptions struct {
	policies *config.Policies
	memory   memory.Options
	onError  policy.OnError
	envoy    envoyapi.Settings
	logger   *slog.Logger
}

// newReplica returns a replica of a daemon with such options, with one lane. Close it.
func newReplica(index int, o replicaOptions) (*replica, error) {
	o.memory.Logger, o.memory.Reproducible = o.logger, true
	counters, err := memory.New(o.memory)
	if err != nil {
		return nil, err
	}
	counters.Favour(o.policies.Names())
	r := &replica{index: index, options: o, store: counters}
	r.split(1)
	return r, nil
}

// split has n lanes decide.
func (r *replica) split(n int) {
	r.lanes = nil
	for i := range n {
		r.lanes = append(r.lanes, r.newLane(uint8(i))) //nolint:gosec // there are at most maxLanes
	}
}

func (r *replica) newLane(number uint8) *lane {
	o := &r.options
	l := &lane{number: number, side: r.index, store: clocked{Store: r.store}, shared: map[string]*counter{}, ledger: newLedger()}
	book := account.New(decide.Outcomes, nil)
	l.core = decide.New(decide.Options{
		Store: &l.store, OnError: o.onError, MaxLogCount: o.memory.MaxLogCount, Logger: o.logger, Book: book,
	})
	l.core.SetPolicies(o.policies.Namespaces)
	l.envoy = envoyapi.New(envoyapi.Options{Settings: o.envoy, Core: l.core, Book: book, Faults: fault.NewLog(book, o.logger)})
	l.envoy.SetConfig(o.policies.Domains)
	return l
}

// begin has the timelines of all lanes begin with one instant.
func (r *replica) begin(at int64) {
	for _, l := range r.lanes {
		l.timeline.place(at)
	}
}

// join adds up what all lanes have counted.
func (r *replica) join() {
	r.ledger = r.lanes[0].ledger
	r.lanes[0].batch.Clear()
	for _, l := range r.lanes[1:] {
		l.batch.Clear()
		r.add(&l.ledger)
	}
	r.sort()
}

func (r *replica) close() { _ = r.store.Close() }
