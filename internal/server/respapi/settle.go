package respapi

import (
	"encoding/base64"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// single decides a request that is not decided with others, and returns its batch, with
// which it is to be done.
func (t *turn) single() *decide.Request {
	t.batch.Requests = append(t.batch.Requests, decide.Request{})
	return &t.batch.Requests[0]
}

// reset answers RL.RESET.
func (t *turn) reset() error {
	defer t.forget()
	var r decide.Request
	t.subject(&r)
	o := t.conn.o
	if o.RefuseReset != nil {
		return o.RefuseReset()
	}
	ctx, err := t.conn.caller()
	if err != nil {
		return err
	}
	if err := o.Core.Reset(ctx, &r); err != nil {
		return decide.RenameFields(err, argumentOf)
	}
	t.out = append(t.out, replyOK...)
	return nil
}

// reserve answers RL.RESERVE.
func (t *turn) reserve() error {
	defer t.forget()
	r := t.single()
	t.subject(r)
	if r.Mode != strategy.Take {
		refuse(r, "mode", "%s reserves nothing; leave it out, or use RL.ALLOW", r.Mode)
	}
	ctx, err := t.conn.caller()
	if err != nil {
		return err
	}
	id, err := t.conn.o.Core.Reserve(ctx, &t.batch)
	if err == nil {
		err = t.batch.Answers[0].Err
	}
	if err != nil {
		return decide.RenameFields(err, argumentOf)
	}
	more := extra{reserves: true}
	if id != nil { // as text: many clients take all replies for text
		more.reservation = base64.StdEncoding.AppendEncode(nil, id)
	}
	t.reply(more)
	return nil
}

// reply answers with the one answer of the batch.
func (t *turn) reply(more extra) {
	if t.conn.protocol == 3 {
		t.out = appendAnswerMap(t.out, &t.batch.Answers[0], more)
	} else {
		t.appendAnswer(&t.batch.Answers[0], more)
	}
}

// commit answers RL.COMMIT.
func (t *turn) commit() error {
	defer t.forget()
	used, err := number(t.args[2], "420")
	if err != nil {
		return t.conn.o.Core.Refuse("actual", "%v", err)
	}
	repeated, err := t.settle(used)
	if err != nil {
		return err
	}
	t.reply(extra{settles: true, repeated: repeated})
	return nil
}

// cancel answers RL.CANCEL.
func (t *turn) cancel() error {
	defer t.forget()
	if _, err := t.settle(0); err != nil {
		return err
	}
	t.out = append(t.out, replyOK...)
	return nil
}

// settle settles the reservation of the command at hand.
func (t *turn) settle(used uint64) (repeated bool, err error) {
	ctx, err := t.conn.caller()
	if err != nil {
		return false, err
	}
	id, err := base64.StdEncoding.DecodeString(t.args[1])
	if err != nil {
		return false, t.conn.o.Core.Refuse("reservation", "%s is not one; send what RL.RESERVE replied, such as AQ...", quote.Cut(t.args[1]))
	}
	return t.conn.o.Core.Settle(ctx, id, used, &t.batch)
}
