package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/check"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/connect"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A question is what check and reset have in common: the limits of one identifier,
// and the daemon that knows them.
type question struct {
	namespace, identifier, policy string

	limit     ratelimitv1.Limit // without its strategy
	algorithm string            // the strategy of limit

	addr string
	wait time.Duration
	how  connect.Options

	set *flags.Set
}

// newQuestion returns the question that flags ask: its own, then those of the command,
// then those that say where to ask.
func newQuestion(own ...flags.Flag) *question {
	q := &question{algorithm: strategy.FixedWindow.String(), addr: "127.0.0.1:8081", wait: 2 * time.Second}
	all := append([]flags.Flag{
		{Name: "namespace", Value: flags.Text(&q.namespace), Hint: "NAME", Required: true, Help: "Who owns the counters, such as checkout."},
		{Name: "identifier", Value: flags.Text(&q.identifier), Hint: "NAME", Required: true, Help: "Who is being limited, such as user:42."},
		{Name: "rate", Value: flags.Text(&q.limit.Rate), Hint: "RATE", Help: "The rate to hold it to, such as 100/min, 5/s or 10/30s. This or --policy is required."},
		{Name: "policy", Value: flags.Text(&q.policy), Hint: "NAME", Help: "Or the policy of the server's configuration."},
		{Name: "strategy", Value: flags.Text(&q.algorithm), Help: "With --rate: one of " + check.Strategies() + "."},
		{Name: "name", Value: flags.Text(&q.limit.Name), Hint: "NAME", Help: "With --rate: names the limit's counter, which then outlives a change of its rate."},
		{Name: "burst", Value: flags.Number(&q.limit.Burst), Hint: "N", Help: "With --rate: the capacity of token_bucket, leaky_bucket and gcra; 0 for the strategy's default."},
	}, own...)
	all = append(all,
		flags.Flag{Name: "addr", Value: flags.Address(&q.addr, "8081"), Help: "The service's gRPC address. Without a port: port 8081."},
		flags.Flag{Name: "wait", Value: flags.Duration(&q.wait), Help: "The longest to wait for the answer."},
	)
	q.set = &flags.Set{EnvPrefix: config.EnvPrefix, Flags: append(all, q.how.Flags()...)}
	return q
}

// ask reads the flags of call, and has do ask the daemon for the limits that they
// name. The context of do ends after --wait.
func (q *question) ask(ctx context.Context, call command.Call, do func(context.Context, *check.Daemon, []*ratelimitv1.Limit) error) error {
	wrong := q.set.Apply(call.Line, q.set.Environment(os.LookupEnv))
	wrong = append(wrong, q.set.OneOf("rate", "policy"), q.set.Without("policy", "strategy", "name", "burst"))
	s, err := strategy.Parse(q.algorithm)
	if err != nil {
		wrong = append(wrong, q.set.Problem("strategy", ": "+err.Error()))
	}
	if q.wait <= 0 {
		wrong = append(wrong, q.set.Problem("wait", fmt.Sprintf(" %v: must be above 0, such as 2s", q.wait)))
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	var limits []*ratelimitv1.Limit
	if q.limit.Rate != "" {
		q.limit.Strategy = ratelimitv1.Strategy(s)
		limits = append(limits, &q.limit)
	}
	link, err := q.how.Open(os.LookupEnv)
	if err != nil {
		return err
	}
	daemon, err := check.Connect(q.addr, link)
	if err != nil {
		return err
	}
	defer daemon.Close()
	ctx, cancel := context.WithTimeout(ctx, q.wait)
	defer cancel()
	return do(ctx, daemon, limits)
}
