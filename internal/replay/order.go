package replay

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/ratelimitd/ratelimitd/internal/replay/mapping"
)

const (
	// batchEvents, and the rest of the last record, are in a batch.
	batchEvents = 1 << 13
	// maxTogether is for how many events memory is fetched together. What they need fits into
	// the fastest cache.
	maxTogether = 64
	// maxLanes is how many lanes there may be: more than it takes to decide as fast as one
	// goroutine can put records in order.
	maxLanes = 8
	// reorderRecords of each file are held back to be put in order. Programs write a line
	// when a request ends, so that a log has its requests in another order than they came.
	// A time that is far off waits at the end of them and holds up nobody.
	reorderRecords = 1 << 16
	// chunksAhead of each file are parsed at a time, or wait to be put in order.
	chunksAhead = 8
	// maxOpenFiles are read at a time: those whose times overlap.
	maxOpenFiles = 200
	// jumpMicros is how far a clock must step back for it to be said.
	jumpMicros = int64(3600 * 1e6)
)

// A stream is what is read of a source, in order.
type stream struct {
	source *source
	chunks chan *chunk
	free   chan *chunk

	held  []event // in order, from next to the end
	next  int
	ready int // held up to here may go on
	ended bool
	last  int64 // the time of the record that was read last
}

// Order says what was seen of the times of all records.
type order struct {
	First, Last int64
	OutOfOrder  uint64 // records that are older than the one before them
	Late        uint64 // of these, those that could not be put in order any more
	Latest      int64  // the most that one of those was late, in microseconds
	StepsBack   uint64 // times that were more than an hour before the record before
	NoZone      uint64
	Future      uint64 // records whose time has not come yet
}

// An orderer merges sources by time. It is for one goroutine.
type orderer struct {
	waiting []*source // by their first record
	streams []*stream
	mapping *mapping.Mapping
	stdin   io.Reader
	who     *subjects
	read    *atomic.Int64

	clock int64
	now   int64 // the wall clock's, to know what is of the future
	seen  order
	bad   unreads
}

// advance makes sure that s has a record that may go on, unless it has ended.
func (o *orderer) advance(ctx context.Context, s *stream) error {
	if s.next < s.ready || s.ended && s.next == len(s.held) {
		return nil
	}
	left := copy(s.held, s.held[s.next:])
	s.held, s.next = s.held[:left], 0
	sorted := true
	for !s.ended && len(s.held) < reorderRecords {
		var c *chunk
		var more bool
		select {
		case c, more = <-s.chunks:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !more {
			s.ended = true
			break
		}
		<-c.done
		sorted = o.take(s, &c.asks) && sorted
		o.seen.NoZone += c.noZone
		o.bad.add(c.problems)
		if c.err != nil {
			return c.err
		}
		select {
		case s.free <- c:
		default:
		}
	}
	if !sorted {
		slices.SortStableFunc(s.held, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	}
	if s.ready = len(s.held); !s.ended {
		for s.ready -= reorderRecords / 2; s.held[s.ready-1].more; { // a record stays together
			s.ready++
		}
	}
	return nil
}

// take holds what a chunk asks, and reports whether all that is held is in order.
func (o *orderer) take(s *stream, asks *mapping.Asks) (sorted bool) {
	sorted = true
	for i := range asks.All {
		if i%maxTogether == 0 {
			o.who.fetch(asks.All[i:min(i+maxTogether, len(asks.All))])
		}
		a := &asks.All[i]
		if a.At < s.last {
			o.seen.OutOfOrder++
			if s.last-a.At > jumpMicros {
				o.seen.StepsBack++
			}
		}
		if a.At > o.now && !a.More {
			o.seen.Future++
		}
		s.last = a.At
		who, lane := o.who.find(asks, i)
		s.held = append(s.held, event{a.At, a.Cost, who, a.More, lane})
		if n := len(s.held); n > 1 && s.held[n-2].at > a.At {
			sorted = false
		}
	}
	return sorted
}

// A batch is events that are decided before the replicas and their lanes wait for one another.
type batch struct {
	events  []event
	ofLane  [maxLanes][]int32 // which of events are of each lane
	records uint64            // that the events are of
}

// fill puts the next events into b. It is empty at the end.
func (o *orderer) fill(ctx context.Context, b *batch) error {
	b.events, b.records = b.events[:0], 0
	for i := range b.ofLane {
		b.ofLane[i] = b.ofLane[i][:0]
	}
	for more := false; len(b.events) < batchEvents; {
		s, until, err := o.earliest(ctx)
		if err != nil || s == nil {
			return err
		}
		for s.next < s.ready && s.held[s.next].at <= until && (len(b.events) < batchEvents || more) {
			e := s.held[s.next]
			s.next++
			o.follow(&e)
			if more = e.more; !more {
				b.records++
			}
			b.ofLane[e.lane] = append(b.ofLane[e.lane], int32(len(b.events))) //nolint:gosec // it is an index
			b.events = append(b.events, e)
		}
	}
	return nil
}

// follow sets the clock to the time of e, or, as a clock never runs backwards, the time of e
// to the clock.
func (o *orderer) follow(e *event) {
	if e.at < o.clock {
		if !e.more {
			o.seen.Late++
		}
		o.seen.Latest = max(o.seen.Latest, o.clock-e.at)
		e.at = o.clock
		return
	}
	o.clock = e.at
	if o.seen.First == 0 {
		o.seen.First = e.at
	}
	o.seen.Last = e.at
}

// earliest returns the stream with the earliest event, and until when it has the earliest.
func (o *orderer) earliest(ctx context.Context) (*stream, int64, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		var first *stream
		until := int64(1<<63 - 1)
		for i := 0; i < len(o.streams); i++ {
			s := o.streams[i]
			if err := o.advance(ctx, s); err != nil {
				return nil, 0, err
			}
			if s.next == len(s.held) {
				o.streams = slices.Delete(o.streams, i, i+1)
				i--
				continue
			}
			at := s.held[s.next].at
			switch {
			case first == nil:
				first = s
			case at < first.held[first.next].at:
				until = min(until, first.held[first.next].at)
				first = s
			default:
				until = min(until, at)
			}
		}
		if len(o.waiting) == 0 {
			return first, until, nil
		}
		if first != nil && first.held[first.next].at < o.waiting[0].first {
			return first, min(until, o.waiting[0].first-1), nil
		}
		if err := o.begin(ctx); err != nil {
			return nil, 0, err
		}
	}
}

// begin begins to read the next source.
func (o *orderer) begin(ctx context.Context) error {
	s := o.waiting[0]
	o.waiting = o.waiting[1:]
	if len(o.streams) >= maxOpenFiles {
		return fmt.Errorf("%s: more than %d files have records of the same time; replay fewer of them at once", s.name, maxOpenFiles)
	}
	if s.file == nil {
		if err := s.start(o.stdin, o.read); err != nil {
			return err
		}
	}
	st := &stream{source: s, chunks: make(chan *chunk, chunksAhead), free: make(chan *chunk, chunksAhead)}
	o.streams = append(o.streams, st)
	go s.read(ctx, o.mapping, st.chunks, st.free)
	return nil
}

// wait waits for the goroutines of all sources, whose context has ended. Nothing can wake one
// that reads standard input, so that the program ends without it.
func (o *orderer) wait() {
	for _, s := range o.streams {
		if s.source.name == stdinName {
			continue
		}
		for c := range s.chunks { // until it is closed
			<-c.done
		}
	}
	for _, s := range o.waiting {
		s.close()
	}
}
