package respapi

import (
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// answer answers the commands at the beginning of text, and writes the replies. It
// returns how long these commands are, and whether the connection is to stay open.
func (t *turn) answer(text string) (size int, open bool) {
	t.start = histogram.Start()
	begun := t.conn.o.Calls.Begin()
	err := t.answerAll(text, begun, &size)
	if begun {
		t.conn.o.Calls.End()
	}
	if err != nil {
		// What is no protocol, or a panic of ours: nothing after it can be answered.
		t.out = appendError(t.out[:t.whole], err)
		t.closing = true
	}
	t.tally.flush(t.counts)
	if t.decided {
		t.conn.o.Latency.Since(t.start)
	}
	return size, t.write() && !t.closing
}

// answerAll is answer but for the writing of the last replies.
func (t *turn) answerAll(text string, begun bool, size *int) (err error) {
	defer t.conn.o.Faults.Recover("RESP", &err)
	if t.conn.full { // it is to be answered much, and more comes
		t.work = freeWork
	}
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
		if t.work += n; t.work > freeWork && !t.wait() {
			t.closing = true
			break
		}
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
		if len(t.out) > maxReplyBytes && (!t.write() || !t.wait()) {
			t.closing = true
		}
	}
	t.decide()
	return nil
}

// undecodable notes that err is what a client has sent.
func (t *turn) undecodable(err error) error {
	_ = t.conn.o.Faults.Undecodable(t.conn.base, "RESP", err)
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
			t.conn.o.Core.Refuse(d.name, "wrong number of arguments") //nolint:errcheck // it counts
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
		t.alone(func() { err = t.reset() })
	case reserve:
		t.alone(func() { err = t.reserve() })
	case commit:
		t.alone(func() { err = t.commit() })
	case cancel:
		t.alone(func() { err = t.cancel() })
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

// alone asks for one thing. It takes little of a processor, and may wait for a store.
func (t *turn) alone(ask func()) {
	defer t.processor.Aside(t.conn.base)()
	ask()
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
	if t.processor != nil && len(asked) == 1 {
		t.alone(func() { t.conn.o.Core.Decide(ctx, &t.batch) })
	} else {
		ctx = turns.NewContext(ctx, t.processor) // others have it while a store is asked
		t.conn.o.Core.Decide(ctx, &t.batch)
	}
	for i := range asked {
		a := &t.batch.Answers[i]
		failed := a.Err != nil
		switch {
		case failed:
			t.out = appendError(t.out, decide.RenameFields(a.Err, fieldOf(asked[i].command)))
		case asked[i].command == cellThrottle:
			t.appendCellThrottle(a, asked[i].capacity)
		case asked[i].command == crabThrottle:
			t.appendCrabThrottle(a, asked[i].capacity)
		case t.conn.protocol == 3:
			t.out = appendAnswerMap(t.out, a, extra{})
		default:
			t.appendAnswer(a, extra{})
		}
		t.done(asked[i].command, failed)
	}
	t.forget()
}

// ask adds the command at hand to those that are decided together.
func (t *turn) ask(c command) {
	t.batch.Requests = append(t.batch.Requests, decide.Request{})
	r := &t.batch.Requests[len(t.batch.Requests)-1]
	q := question{command: c}
	switch c {
	case byPolicy:
		r.Namespace, r.Policy, r.Identifier, r.Cost = t.args[1], t.args[2], t.args[3], 1
		t.options(r, t.args[4:])
	case cellThrottle, crabThrottle:
		q.capacity = t.throttle(r, c)
	default:
		t.subject(r)
	}
	t.asked = append(t.asked, q)
	if len(t.asked) == maxBatch {
		t.decide()
		if !t.wait() {
			t.closing = true
		}
	}
}

// fieldOf returns what a command calls the fields of the API.
func fieldOf(c command) func(field string) string {
	if c == cellThrottle || c == crabThrottle {
		return throttleField
	}
	return argumentOf
}

// fail answers a command with an error.
func (t *turn) fail(c command, err error) {
	t.decide()
	t.out = appendError(t.out, err)
	t.done(c, true)
}
