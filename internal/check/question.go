package check

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/connect"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A contact is where a command asks a daemon.
type contact struct {
	addr string
	wait time.Duration
	how  connect.Options

	set *flags.Set // of the command
}

// flagsOf sets the flags of a command: its own, and those that say where to ask.
func (c *contact) flagsOf(own []flags.Flag) {
	c.addr, c.wait = "127.0.0.1:8081", 2*time.Second
	own = append(own,
		flags.Flag{Name: "addr", Value: flags.Address(&c.addr, "8081"), Help: "The service's gRPC address. Without a port: port 8081."},
		flags.Flag{Name: "wait", Value: flags.Duration(&c.wait), Help: "The longest to wait for the answer."},
	)
	c.set = &flags.Set{EnvPrefix: config.EnvPrefix, Flags: append(own, c.how.Flags()...)}
}

// read reads the flags of call, and returns what is wrong with them.
func (c *contact) read(call command.Call) []error {
	return c.set.Apply(call.Line, c.set.Environment(os.LookupEnv))
}

// ask has do ask the daemon, unless something is wrong. The context of do ends after
// --wait.
func (c *contact) ask(ctx context.Context, wrong []error, do func(context.Context, *daemon) error) error {
	if c.wait <= 0 {
		wrong = append(wrong, c.set.Problem("wait", fmt.Sprintf(" %v: must be above 0, such as 2s", c.wait)))
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	link, err := c.how.Open(os.LookupEnv)
	if err != nil {
		return err
	}
	to, err := newDaemon(c.addr, link)
	if err != nil {
		return err
	}
	defer to.close()
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	return do(ctx, to)
}

// A question is what check, reserve and reset have in common: the limits of one
// identifier, and the daemon that knows them.
type question struct {
	contact
	namespace, identifier, policy string

	limit     ratelimitv1.Limit // without the following
	algorithm string            // the strategy of limit
	anchor    uint64            // the anchor day of limit
	maxDebt   uint64            // that of limit, if its flag is set
}

// newQuestion returns the question that flags ask: its own, then those of the command,
// then those that say where to ask.
func newQuestion(own ...flags.Flag) *question {
	q := &question{algorithm: strategy.FixedWindow.String()}
	q.flagsOf(append([]flags.Flag{
		{Name: "namespace", Value: flags.Text(&q.namespace), Hint: "NAME", Help: "Who owns the counters, such as checkout."},
		{Name: "identifier", Value: flags.Text(&q.identifier), Hint: "NAME", Help: "Who is being limited, such as user:42."},
		{Name: "rate", Value: flags.Text(&q.limit.Rate), Hint: "RATE", Help: "The rate to hold it to, such as 100/min, 5/s or 10/30s. This or --policy is required."},
		{Name: "policy", Value: flags.Text(&q.policy), Hint: "NAME", Help: "Or the policy of the server's configuration."},
		{Name: "strategy", Value: flags.Text(&q.algorithm), Help: "With --rate: one of " + strategy.Names() + "."},
		{Name: "name", Value: flags.Text(&q.limit.Name), Hint: "NAME", Help: "With --rate: names the limit's counter, which then outlives a change of its rate."},
		{Name: "burst", Value: flags.Number(&q.limit.Burst), Hint: "N", Help: "With --rate: the capacity of token_bucket, leaky_bucket and gcra; 0 for the strategy's default."},
		{Name: "max-debt", Value: flags.Number(&q.maxDebt), Hint: "N", Help: "With --rate: the most debt that charges may leave, in units. Without it there is no bound."},
		{Name: "time-zone", Value: flags.Text(&q.limit.TimeZone), Hint: "ZONE", Help: "With --rate: where days, weeks, months and years of a fixed_window begin at midnight, such as Europe/Berlin."},
		{Name: "anchor-day", Value: flags.Number(&q.anchor), Hint: "DAY", Help: "With --rate: the day on which months and years begin, 1 to 28."},
	}, own...))
	return q
}

// limits returns the limit of --rate, if there is one; and wrong, with what is wrong with
// the flags that say which limits are asked.
func (q *question) limits(wrong []error) ([]*ratelimitv1.Limit, []error) {
	wrong = append(wrong, q.set.Need("namespace", "identifier"), q.set.OneOf("rate", "policy"), q.set.Without("policy", limitFlags...))
	s, err := strategy.Parse(q.algorithm)
	if err != nil {
		wrong = append(wrong, q.set.Problem("strategy", ": "+err.Error()))
	}
	var limits []*ratelimitv1.Limit
	if q.limit.Rate != "" {
		q.limit.Strategy, q.limit.AnchorDay = ratelimitv1.Strategy(s), uint32(min(q.anchor, math.MaxUint32))
		if _, set := q.set.Setting("max-debt"); set {
			q.limit.MaxDebt = &q.maxDebt
		}
		limits = append(limits, &q.limit)
	}
	return limits, wrong
}

// limitFlags are those that describe a limit of --rate.
var limitFlags = []string{"strategy", "name", "burst", "max-debt", "time-zone", "anchor-day"}
