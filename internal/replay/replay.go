// Package replay says what limits would have done: it asks them what an access log says was
// asked, at the times of the log. It decides by the daemon's own core and store, so that the
// answers are those that a daemon would have given.
package replay

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/replay/mapping"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A run is one replay.
type run struct {
	names    []string
	stdin    io.Reader
	mapping  *mapping.Mapping
	format   accesslog.Format // "": found out
	who      *subjects
	replicas []*replica // of --config, and of --current if there is one
	goal     *goal      // nil: nothing is to be suggested
	now      time.Time
	lines    int // of each list
	lanes    int // of each replica; 0: one

	read    atomic.Int64  // bytes of the files
	done    atomic.Uint64 // records
	changed [2]uint64     // requests that are allowed now and were not, and the reverse
	// watch is called for each event with its outcomes, if it is not nil: for tests.
	watch func(event, []decide.Outcome)

	// What do has found:
	sources   []*source
	order     order
	bad       unreads
	suggested map[*row]*suggestion
}

// do reads all files, and has the replicas decide.
func (r *run) do(ctx context.Context) error {
	for _, name := range r.names {
		s, err := open(name, r.stdin, r.mapping, r.format)
		if err != nil {
			for _, s := range r.sources {
				s.close()
			}
			return err
		}
		r.sources = append(r.sources, s)
	}
	full := slices.DeleteFunc(slices.Clone(r.sources), func(s *source) bool { return s.empty })
	if len(full) == 0 {
		return fmt.Errorf("%s: it has no lines", strings.Join(r.names, ", "))
	}
	slices.SortStableFunc(full, func(a, b *source) int { return cmp.Compare(a.first, b.first) })
	o := &orderer{
		waiting: full,
		mapping: r.mapping, stdin: r.stdin, who: r.who, read: &r.read, now: r.now.UnixMicro(),
	}
	r.split()
	var kept trace
	defer kept.close()
	if err := r.decideAll(ctx, o, &kept); err != nil {
		return err
	}
	r.order, r.bad = o.seen, o.bad
	for _, p := range r.replicas {
		p.join()
	}
	now := r.replicas[0]
	r.bad.add(now.refused.kinds)
	for _, k := range now.refused.kinds { // they were read, but ask nothing that could be decided
		r.done.Add(-k.count)
	}
	if r.goal == nil {
		return nil
	}
	var err error
	r.suggested, err = suggest(ctx, r.goal, &kept, r.who)
	return err
}

// split splits the replicas into lanes, as many as each has shards for.
func (r *run) split() {
	n := min(r.lanes, maxLanes)
	for _, p := range r.replicas {
		n = min(n, p.store.Shards())
	}
	if n < 2 || r.mapping.MakesDescriptors() { // a record may make several, which are decided together
		return
	}
	bits := bits.Len(uint(n)) - 1
	for _, p := range r.replicas {
		p.split(1 << bits)
	}
	counters := r.replicas[0].store // a name has its place in that of every replica
	r.who.lane = func(n *mapping.Name) uint8 {
		return uint8(counters.Place(n.Namespace, n.Identifier) >> (16 - bits))
	}
}

// A delivery travels from the goroutine that puts events in order to those that decide.
type delivery struct {
	*batch
	err error
}

// decideAll has the replicas decide all events, while the next are read.
func (r *run) decideAll(ctx context.Context, o *orderer, kept *trace) error {
	ctx, cancel := context.WithCancel(ctx)
	batches, free := make(chan delivery, 4), make(chan *batch, 8)
	go func() {
		defer close(batches)
		for {
			var b *batch
			select {
			case b = <-free:
			default:
				b = new(batch)
			}
			err := o.fill(ctx, b)
			batches <- delivery{b, err}
			if err != nil || len(b.events) == 0 {
				return
			}
		}
	}()
	defer func() {
		cancel()
		for range batches { // until it is closed
		}
		o.wait()
	}()
	stretches := make([]stretch, len(r.replicas))
	for b := range batches {
		if b.err != nil {
			return b.err
		}
		if err := r.decideBatch(ctx, b.batch, stretches); err != nil {
			return err
		}
		if r.goal != nil {
			if err := kept.add(b.events); err != nil {
				return err
			}
		}
		r.done.Add(b.records)
		select {
		case free <- b.batch:
		default:
		}
	}
	return nil
}

// decideBatch has all replicas decide a batch, and compares what they say.
func (r *run) decideBatch(ctx context.Context, b *batch, stretches []stretch) error {
	if len(b.events) == 0 {
		return ctx.Err()
	}
	var others sync.WaitGroup
	for i, p := range r.replicas {
		s := &stretches[i]
		if s.batch = b; s.first == 0 {
			p.begin(b.events[0].at)
		}
		if len(r.replicas) > 1 || r.watch != nil {
			s.outcomes = decide.Resized(s.outcomes, len(b.events))
		}
		for j, l := range p.lanes {
			if i+j > 0 {
				others.Go(func() { l.decide(ctx, s) })
			}
		}
	}
	r.replicas[0].lanes[0].decide(ctx, &stretches[0])
	others.Wait()
	for i, p := range r.replicas {
		p.store.Settle(strategy.Instant(b.events[len(b.events)-1].at))
		stretches[i].first += uint64(len(b.events))
	}
	if len(r.replicas) == 2 {
		r.compare(b.events, stretches)
	}
	if r.watch != nil {
		for i := range b.events {
			of := make([]decide.Outcome, len(stretches))
			for j := range of {
				of[j] = stretches[j].outcomes[i]
			}
			r.watch(b.events[i], of)
		}
	}
	return ctx.Err()
}

// compare counts the records that one of two replicas denies and the other does not.
func (r *run) compare(events []event, stretches []stretch) {
	for i := range events {
		if events[i].more {
			continue
		}
		now, before := stretches[0].outcomes[i] == decide.Denied, stretches[1].outcomes[i] == decide.Denied
		if before && !now {
			r.changed[0]++
		}
		if now && !before {
			r.changed[1]++
		}
	}
}
