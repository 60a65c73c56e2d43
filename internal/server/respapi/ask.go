package respapi

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
)

// ask adds the command at hand to those that are decided together.
func (t *turn) ask(c command) {
	t.batch.Requests = append(t.batch.Requests, decide.Request{})
	r := &t.batch.Requests[len(t.batch.Requests)-1]
	q := question{command: c}
	switch c {
	case byPolicy:
		*r = decide.Request{Namespace: t.args[1], Policy: t.args[2], Identifier: t.args[3], Cost: 1}
		t.options(r, t.args[4:])
	case cellThrottle, crabThrottle:
		q.capacity = t.throttle(r, c)
	default:
		t.subject(r)
	}
	t.asked = append(t.asked, q)
	if len(t.asked) == maxBatch {
		t.decide()
	}
}

// subject sets r to what the command at hand asks, which begins with a namespace and an
// identifier. What follows are limits, or a policy.
func (t *turn) subject(r *decide.Request) {
	*r = decide.Request{Namespace: t.args[1], Identifier: t.args[2], Cost: 1}
	rest := t.args[3:]
	if isWord(rest[0], "POLICY") && len(rest) > 1 {
		r.Policy = rest[1]
		t.options(r, rest[2:])
		return
	}
	start := len(t.specs)
	t.specs = append(t.specs, strategy.Spec{Rate: rest[0]})
	if len(rest) > 1 {
		t.options(r, rest[1:])
	}
	r.Specs = t.specs[start:len(t.specs):len(t.specs)]
}

// isWord reports whether an argument is a word of ours, which is in upper case, in any
// case.
func isWord(arg, word string) bool { return len(arg) == len(word) && strings.EqualFold(arg, word) }

// refuse notes what is wrong with a field of r, as the API calls it.
func refuse(r *decide.Request, field, format string, args ...any) {
	r.Wrong = append(r.Wrong, decide.Violation{Field: field, Problem: fmt.Sprintf(format, args...)})
}

// An option is a word that a value follows. set sets what the value says.
type option struct {
	word, example string
	ofLimit       bool // of the limit at hand, and not of the request
	field         string
	set           func(r *decide.Request, s *strategy.Spec, value string) error
}

// options are those of all commands but LIMIT, POLICY and DRY.
var options = []option{
	{word: "COST", field: "cost", example: "COST 5", set: func(r *decide.Request, _ *strategy.Spec, value string) (err error) {
		r.Cost, err = number(value, "5")
		return err
	}},
	{word: "MODE", field: "mode", example: "MODE charge", set: func(r *decide.Request, _ *strategy.Spec, value string) (err error) {
		r.Mode, err = strategy.ParseMode(value)
		return err
	}},
	{word: "CONSUMED_AT", field: "consumed_at", example: "CONSUMED_AT 1767225600000000", set: consumedAt},
	{word: "STRATEGY", field: "strategy", example: "STRATEGY token_bucket", ofLimit: true, set: func(_ *decide.Request, s *strategy.Spec, value string) (err error) {
		s.Strategy, err = strategy.Parse(value)
		return err
	}},
	{word: "BURST", field: "burst", example: "BURST 20", ofLimit: true, set: func(_ *decide.Request, s *strategy.Spec, value string) (err error) {
		s.Burst, err = number(value, "20")
		return err
	}},
	{word: "NAME", field: "name", example: "NAME daily", ofLimit: true, set: func(_ *decide.Request, s *strategy.Spec, value string) error {
		s.Name = value
		return nil
	}},
	{word: "MAX_DEBT", field: "max_debt", example: "MAX_DEBT 100", ofLimit: true, set: func(_ *decide.Request, s *strategy.Spec, value string) error {
		debt, err := number(value, "100")
		s.MaxDebt = strategy.AtMost(debt)
		return err
	}},
	{word: "TIME_ZONE", field: "time_zone", example: "TIME_ZONE Europe/Berlin", ofLimit: true, set: func(_ *decide.Request, s *strategy.Spec, value string) (err error) {
		s.Zone, err = timezone.Load(value)
		return err
	}},
	{word: "ANCHOR_DAY", field: "anchor_day", example: "ANCHOR_DAY 15", ofLimit: true, set: func(_ *decide.Request, s *strategy.Spec, value string) error {
		day, err := number(value, "15")
		s.AnchorDay = uint32(min(day, strategy.MaxAnchorDay+1)) //nolint:gosec // it fits
		return err
	}},
}

// number reads a number that is not negative.
func number(value, example string) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not a whole number of 0 or more; write one such as %s", quote.Cut(value), example)
	}
	return n, nil
}

// maxInstant is in the year 2255. No store's clock counts so far, however wrong it is.
const maxInstant = 9_000_000_000_000_000

// consumedAt reads when what is given back was consumed, in microseconds since 1970.
func consumedAt(r *decide.Request, _ *strategy.Spec, value string) error {
	at, err := strconv.ParseUint(value, 10, 64)
	if err != nil || at >= maxInstant {
		return fmt.Errorf("%s is no time at which anything was consumed; write the decided_at of that reply, in microseconds since 1970", quote.Cut(value))
	}
	r.ConsumedAt = max(1, strategy.Instant(at)) // 0 stands for none
	return nil
}

// options reads what follows in args: options of r, and of its limits, the first of which
// is the last of t.specs. They may come in any order; those of a limit are of the last one.
func (t *turn) options(r *decide.Request, args []string) {
	limits := 0 // before the one at hand
	for len(args) > 0 && len(r.Wrong) < decide.MaxShown {
		word := args[0]
		if isWord(word, "DRY") {
			r.DryRun = true
			args = args[1:]
			continue
		}
		if isWord(word, "LIMIT") && r.Policy == "" {
			if len(args) == 1 {
				refuse(r, "limits", "LIMIT has no rate; write one, as in LIMIT 100/min")
				return
			}
			if limits++; limits > strategy.MaxLimits { // one too many is enough for the core to refuse it
				return
			}
			t.specs = append(t.specs, strategy.Spec{Rate: args[1]})
			args = args[2:]
			continue
		}
		o := optionOf(word)
		switch {
		case o == nil:
			refuse(r, "option", "unknown option %s; use COST, MODE, DRY or CONSUMED_AT, and for a limit STRATEGY, BURST, NAME, MAX_DEBT, TIME_ZONE, ANCHOR_DAY or LIMIT", quote.Cut(word))
			return
		case o.ofLimit && r.Policy != "":
			refuse(r, o.field, "a policy has its own; leave %s out", o.word)
			return
		case len(args) == 1:
			refuse(r, o.field, "%s has no value; write one, as in %s", o.word, o.example)
			return
		}
		field := o.field
		var s *strategy.Spec
		if o.ofLimit {
			s = &t.specs[len(t.specs)-1]
			field = fmt.Sprintf("limits[%d].%s", limits, field)
		}
		if err := o.set(r, s, args[1]); err != nil {
			refuse(r, field, "%v", err)
		}
		args = args[2:]
	}
	if r.ConsumedAt != 0 && r.Mode != strategy.Refund {
		refuse(r, "consumed_at", "only a refund has one; leave it out, or write MODE refund")
	}
}

func optionOf(word string) *option {
	for i := range options {
		if isWord(word, options[i].word) {
			return &options[i]
		}
	}
	return nil
}

// fieldOf returns what a command calls the fields of the API.
func fieldOf(c command) func(field string) string {
	if c == cellThrottle || c == crabThrottle {
		return throttleField
	}
	return argumentOf
}

// argumentOf returns what the commands of ours call a field of the API.
func argumentOf(field string) string {
	of := ""
	if rest, ok := strings.CutPrefix(field, "limits["); ok {
		index, name, _ := strings.Cut(rest, "]")
		n, _ := strconv.Atoi(index) // the core has written it
		if n > 0 {
			of = fmt.Sprintf(" of limit %d", n+1)
		}
		if field = strings.TrimPrefix(name, "."); field == "" {
			return fmt.Sprintf("limit %d", n+1)
		}
	}
	if field == "limits" {
		return "rate"
	}
	if o := optionOfField(field); o != nil {
		return o.word + of
	}
	return field + of
}

func optionOfField(field string) *option {
	for i := range options {
		if options[i].field == field {
			return &options[i]
		}
	}
	return nil
}

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
	o := &t.conn.server.o
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
	id, err := t.conn.server.o.Core.Reserve(ctx, &t.batch)
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
		t.out = appendAnswer(t.out, &t.batch.Answers[0], more)
	}
}

// commit answers RL.COMMIT.
func (t *turn) commit() error {
	defer t.forget()
	used, err := number(t.args[2], "420")
	if err != nil {
		return t.conn.server.o.Core.Refuse("actual", "%v", err)
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
		return false, t.conn.server.o.Core.Refuse("reservation", "%s is not one; send what RL.RESERVE replied, such as AQ...", quote.Cut(t.args[1]))
	}
	return t.conn.server.o.Core.Settle(ctx, id, used, &t.batch)
}
