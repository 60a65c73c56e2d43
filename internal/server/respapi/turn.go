package respapi

import (
	"errors"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// maxBatch is how many commands are decided at a time, of those that a connection has
	// sent together. The rest wait, as bytes.
	maxBatch = 128
	// maxReplyBytes is from how many bytes on replies are written before all of the turn
	// are there. One reply is at most some ten thousand bytes longer.
	maxReplyBytes = 32 << 10
)

// A turn answers the commands that a connection has received at a time. It is used again,
// with its memory. The zero turn is ready for use.
type turn struct {
	conn   *conn
	start  histogram.Stopwatch
	args   []string // of the command at hand
	recent recentCommand
	out    []byte // replies, not written yet
	whole  int    // how many bytes of out are whole replies

	// Commands that are decided together, and not answered yet.
	batch decide.Batch
	asked []question // of each request of batch
	specs []strategy.Spec
	rate  wholeRate

	tally   tally
	closing bool // after this turn
	decided bool // whether it has asked the core anything
}

// A question is what a request of a batch was asked by.
type question struct {
	command  command
	capacity uint64 // of a throttle
}

// answer answers the commands at the beginning of text, and writes the replies. It
// returns how long these commands are, and whether the connection is to stay open.
func (t *turn) answer(text string) (size int, open bool) {
	t.start = histogram.Start()
	begun := t.conn.server.o.Calls.Begin()
	err := t.answerAll(text, begun, &size)
	if begun {
		t.conn.server.o.Calls.End()
	}
	if err != nil {
		// What is no protocol, or a panic of ours: nothing after it can be answered.
		t.out = appendError(t.out[:t.whole], err)
		t.closing = true
	}
	t.tally.flush(&t.conn.server.commands)
	if t.decided {
		t.conn.server.o.Latency.Since(t.start)
	}
	return size, t.write() && !t.closing
}

// answerAll is answer but for the writing of the last replies.
func (t *turn) answerAll(text string, begun bool, size *int) (err error) {
	defer t.conn.server.o.Faults.Recover("RESP", &err)
	for !t.closing {
		args, n, inline, err := parse(text[*size:], t.args)
		t.args = args
		switch {
		case err != nil:
			t.decide()
			return t.undecodable(err)
		case n == 0 && len(text)-*size >= maxCommandBytes:
			t.decide()
			return t.undecodable(errLong)
		case n == 0:
			t.decide()
			return nil
		}
		*size += n
		if len(args) == 0 {
			continue
		}
		c := t.recent.commandOf(args[0])
		t.dispatch(c, begun)
		if c == unknown && inline {
			// A page in a browser can have it send such lines here, as HTTP: what it
			// sends after them must not be answered.
			t.closing = true
		}
		if len(t.out) > maxReplyBytes && !t.write() {
			t.closing = true
		}
	}
	t.decide()
	return nil
}

// undecodable notes that err is what a client has sent.
func (t *turn) undecodable(err error) error {
	_ = t.conn.server.o.Faults.Undecodable(t.conn.base, "RESP", err)
	return err
}

// dispatch answers the command at hand, or has it answered with those that follow.
func (t *turn) dispatch(c command, begun bool) {
	d := &descriptions[c]
	switch {
	case c == unknown:
		t.fail(c, unknownCommand(t.args[0]))
		return
	case !d.open:
		if _, err := t.conn.caller(); err != nil {
			t.fail(c, err)
			return
		}
	}
	switch {
	case len(t.args) < d.least || d.most > 0 && len(t.args) > d.most:
		err := replyError(fmt.Sprintf("ERR wrong number of arguments for %s; write %s", d.name, d.usage))
		if d.asks {
			t.conn.server.o.Core.Refuse(d.name, "wrong number of arguments") //nolint:errcheck // it counts
		}
		t.fail(c, err)
	case d.asks && !begun:
		t.fail(c, fault.ErrTooManyCalls)
	default:
		t.run(c)
	}
}

// run runs the command at hand, which has enough arguments.
func (t *turn) run(c command) {
	if c == allow || c == byPolicy || c == cellThrottle || c == crabThrottle {
		t.ask(c)
		return
	}
	t.decide() // replies come in the order of the commands
	var err error
	switch c {
	case reset:
		err = t.reset()
	case reserve:
		err = t.reserve()
	case commit:
		err = t.commit()
	case cancel:
		err = t.cancel()
	default:
		err = t.talk(c)
	}
	if err != nil {
		t.out = t.out[:t.whole]
		t.fail(c, err)
		return
	}
	t.done(c, false)
}

// done notes that the reply to a command is whole.
func (t *turn) done(c command, failed bool) {
	t.whole = len(t.out)
	t.tally.add(&t.conn.server.commands, c, failed)
}

// fail answers a command with an error.
func (t *turn) fail(c command, err error) {
	t.decide()
	t.out = appendError(t.out, err)
	t.done(c, true)
}

// decide decides what was asked and is not answered yet, and answers it.
func (t *turn) decide() {
	if len(t.asked) == 0 {
		return
	}
	asked := t.asked
	t.asked = t.asked[:0] // also after a panic
	ctx, err := t.conn.caller()
	if err != nil { // the caller was withdrawn meanwhile
		for i := range asked {
			t.out = appendError(t.out, err)
			t.done(asked[i].command, true)
		}
		t.forget()
		return
	}
	t.decided = true
	t.conn.server.o.Core.Decide(ctx, &t.batch)
	for i := range asked {
		a := &t.batch.Answers[i]
		failed := a.Err != nil
		switch {
		case failed:
			t.out = appendError(t.out, decide.RenameFields(a.Err, fieldOf(asked[i].command)))
		case asked[i].command == cellThrottle:
			t.out = appendCellThrottle(t.out, a, asked[i].capacity)
		case asked[i].command == crabThrottle:
			t.out = appendCrabThrottle(t.out, a, asked[i].capacity)
		case t.conn.protocol == 3:
			t.out = appendAnswerMap(t.out, a, extra{})
		default:
			t.out = appendAnswer(t.out, a, extra{})
		}
		t.done(asked[i].command, failed)
	}
	t.forget()
}

// forget makes the batch empty.
func (t *turn) forget() {
	t.batch.Clear()
	clear(t.specs)
	t.specs = t.specs[:0]
}

// write writes the replies.
func (t *turn) write() (ok bool) {
	if len(t.out) == 0 {
		return true
	}
	err := t.conn.write(t.out)
	t.out, t.whole = t.out[:0], 0
	return err == nil
}

// clear makes t ready for another connection.
func (t *turn) clear() {
	clear(t.args)
	t.conn, t.args, t.recent, t.rate, t.decided = nil, t.args[:0], recentCommand{}, wholeRate{}, false
	if cap(t.out) > 2*maxReplyBytes {
		t.out = nil
	}
}

// A replyError is an error whose text begins with its code.
type replyError string

// Error returns the text.
func (e replyError) Error() string { return string(e) }

const errNoPasswords = replyError("ERR AUTH: this server knows no clients, so nobody needs a token; leave it out, or start the server with --auth-file")

// unknownCommand returns the error of a command that there is not.
func unknownCommand(name string) error {
	return replyError("ERR unknown command " + quote.Cut(name) + "; use RL.ALLOW, RL.POLICY, RL.RESET, RL.RESERVE, RL.COMMIT, RL.CANCEL, CL.THROTTLE or THROTTLE: see docs/resp.md")
}

// appendError appends err as a reply.
func appendError(b []byte, err error) []byte {
	text := ""
	if e, ok := errors.AsType[replyError](err); ok {
		text = string(e)
	} else if e, ok := errors.AsType[protocolError](err); ok {
		text = "ERR " + e.Error()
	} else {
		st := fault.Status(err)
		text = fault.RESPCode(st.Code()) + " " + st.Message()
	}
	b = append(b, '-')
	b = append(b, quote.Error(errors.New(text)).Error()...)
	return append(b, "\r\n"...)
}
