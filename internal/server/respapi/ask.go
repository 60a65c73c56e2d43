package respapi

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
)

// subject sets r, which is empty, to what the command at hand asks, which begins with a namespace and an
// identifier. What follows are limits, or a policy.
func (t *turn) subject(r *decide.Request) {
	r.Namespace, r.Identifier, r.Cost = t.args[1], t.args[2], 1
	rest := t.args[3:]
	if len(rest) == 1 {
		r.Specs = t.only(strategy.Spec{Rate: rest[0]})
		return
	}
	if isWord(rest[0], "POLICY") {
		r.Policy = rest[1]
		t.options(r, rest[2:])
		return
	}
	start := len(t.specs)
	t.specs = append(t.specs, strategy.Spec{Rate: rest[0]})
	t.options(r, rest[1:])
	r.Specs = t.specs[start:len(t.specs):len(t.specs)]
}

// only returns the specs of a request with one limit. They are those of the request
// before if these are the same, as they mostly are.
func (t *turn) only(spec strategy.Spec) []strategy.Spec {
	if last := len(t.specs) - 1; last < 0 || t.specs[last] != spec {
		t.specs = append(t.specs, spec)
	}
	n := len(t.specs)
	return t.specs[n-1 : n : n]
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

// throttle sets r, which is empty, to what CL.THROTTLE or THROTTLE asks, and returns the capacity.
func (t *turn) throttle(r *decide.Request, c command) (capacity uint64) {
	r.Namespace, r.Identifier, r.Cost = throttleNamespace, t.args[1], 1
	numbers := [...]struct {
		name, example string
		least         int64
		value         int64
	}{{"max_burst", "15", 1, 0}, {"count", "30", 1, 0}, {"period", "60", 1, 0}, {"quantity", "1", 0, 1}}
	if c == cellThrottle {
		numbers[0].least = 0
		numbers[3].least = math.MinInt64 + 1
	}
	for i, arg := range t.args[2:] {
		n := &numbers[i]
		value, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || value < n.least {
			refuse(r, n.name, "%s is not a whole number%s; write one such as %s", quote.Cut(arg), from(n.least), n.example)
			continue
		}
		n.value = value
	}
	capacity = uint64(numbers[0].value) //nolint:gosec // it is not negative
	if c == cellThrottle {
		capacity++
	}
	if quantity := numbers[3].value; quantity < 0 {
		r.Mode, r.Cost = strategy.Refund, uint64(-quantity)
	} else {
		r.Cost = uint64(quantity)
	}
	r.Specs = t.only(strategy.Spec{Name: throttleLimit, Strategy: strategy.GCRA, Rate: t.rate.of(t.args[3], t.args[4]), Burst: capacity})
	return capacity
}

// from says which numbers there may be, from the least on.
func from(least int64) string {
	if least < 0 {
		return ""
	}
	return fmt.Sprintf(" of %d or more", least)
}
