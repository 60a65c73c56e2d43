package respapi

import (
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

const (
	// maxBatch is how many commands are decided at a time, of those that a connection has
	// sent together. The rest wait, as bytes.
	maxBatch = 128
	// maxReplyBytes is from how many bytes on replies are written before all of the turn
	// are there. One reply is at most some ten thousand bytes longer.
	maxReplyBytes = 32 << 10
	// freeWork is from how many bytes of commands on a turn at a processor is needed: they take
	// some 100 microseconds, more or less what maxBatch and maxReplyBytes do.
	freeWork = 8 << 10
	// failureWork is how many bytes an error counts for beside its command: it takes as long.
	failureWork = 512
)

// A turn answers the commands that a connection has received at a time. It is used again,
// with its memory.
type turn struct {
	counts *commandCounts

	conn      *conn
	start     histogram.Stopwatch
	args      []string // of the command at hand
	recent    recentCommand
	out       []byte // replies, not written yet
	whole     int    // how many bytes of out are whole replies
	work      int    // how much was answered, in bytes of commands
	lastLimit recentNumber
	lastReset recentNumber

	// Commands that are decided together, and not answered yet.
	batch decide.Batch
	asked []question // of each request of batch
	specs []strategy.Spec
	rate  wholeRate

	processor *turns.Turn // nil: it has answered too little to need one, or is to write

	tally   tally
	closing bool // after this turn
	decided bool // whether it has asked the core anything
}

// A question is what a request of a batch was asked by.
type question struct {
	command  command
	capacity uint64 // of a throttle
}

// done notes that the reply to a command is whole.
func (t *turn) done(c command, failed bool) {
	t.whole = len(t.out)
	if failed {
		t.work += failureWork
	}
	t.tally.add(t.counts, c, failed)
}

// forget makes the batch empty.
func (t *turn) forget() {
	t.batch.Clear()
	clear(t.specs)
	t.specs = t.specs[:0]
}

// wait waits for a turn at a processor, once more is to be answered than takes some 100
// microseconds: maxBatch, maxReplyBytes or freeWork. It reports false if the server stops.
func (t *turn) wait() (ok bool) {
	if t.processor != nil {
		return true
	}
	var err error
	t.processor, err = t.conn.o.Turns.Take(t.conn.base, t.conn.client)
	return err == nil
}

// rest ends the turn at a processor.
func (t *turn) rest() {
	t.processor.End()
	t.processor = nil
}

// write writes the replies. Others have the processor meanwhile: the client may not read.
func (t *turn) write() (ok bool) {
	if len(t.out) == 0 {
		return true
	}
	t.rest()
	err := t.conn.write(t.out)
	t.out, t.whole = t.out[:0], 0
	return err == nil
}

// clear makes t ready for another connection.
func (t *turn) clear() {
	clear(t.args)
	t.conn, t.args, t.recent, t.rate, t.work, t.decided = nil, t.args[:0], recentCommand{}, wholeRate{}, 0, false
	if cap(t.out) > 2*maxReplyBytes {
		t.out = nil
	}
}
