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

func checkCommand() *command.Command {
	in := &ratelimitv1.ShouldAllowRequest{Cost: new(uint64(1))}
	limit := &ratelimitv1.Limit{}
	algorithm, addr, wait, json := strategy.FixedWindow.String(), "127.0.0.1:8081", 2*time.Second, false
	var descriptor check.Descriptor
	var how connect.Options
	set := &flags.Set{EnvPrefix: config.EnvPrefix, Flags: append([]flags.Flag{
		{Name: "namespace", Value: flags.Text(&in.Namespace), Hint: "NAME", Help: "Who owns the counters, such as checkout. Required, but with --envoy-domain."},
		{Name: "identifier", Value: flags.Text(&in.Identifier), Hint: "NAME", Help: "Who is being limited, such as user:42. Likewise."},
		{Name: "rate", Value: flags.Text(&limit.Rate), Hint: "RATE", Help: "The rate to hold it to, such as 100/min, 5/s or 10/30s. This or --policy is required."},
		{Name: "policy", Value: flags.Text(&in.Policy), Hint: "NAME", Help: "Or the policy of the server's configuration."},
		{Name: "strategy", Value: flags.Text(&algorithm), Help: "With --rate: one of " + check.Strategies() + "."},
		{Name: "name", Value: flags.Text(&limit.Name), Hint: "NAME", Help: "With --rate: names the limit's counter, which then outlives a change of its rate."},
		{Name: "burst", Value: flags.Number(&limit.Burst), Hint: "N", Help: "With --rate: the capacity of token_bucket, leaky_bucket and gcra; 0 for the strategy's default."},
		{Name: "envoy-domain", Value: flags.Text(&descriptor.Domain), Hint: "NAME", Help: "Ask as Envoy does, for a descriptor of this domain. Needs --entry."},
		{Name: "entry", Value: flags.Lines(&descriptor.Entries), Hint: "KEY=VALUE", Help: "With --envoy-domain: an entry of the descriptor. Repeat it for several, in their order."},
		{Name: "cost", Value: flags.Number(in.Cost), Help: "How many units to ask for; 0 only looks."},
		{Name: "dry-run", Value: flags.Bool(&in.DryRun), Help: "Decide, and consume nothing."},
		{Name: "addr", Value: flags.Address(&addr, "8081"), Help: "The service's gRPC address. Without a port: port 8081."},
		{Name: "wait", Value: flags.Duration(&wait), Help: "The longest to wait for the answer."},
		{Name: "json", Value: flags.Bool(&json), Help: "Print the answer as JSON."},
	}, how.Flags()...)}
	return &command.Command{
		Name:    "check",
		Summary: "Ask a running service whether a request is allowed. Exits with 0 if it is, 1 if it is denied, 2 after an error.",
		Examples: `Examples:
  ratelimitd check --namespace checkout --identifier alice --rate 5/s
  ratelimitd check --namespace checkout --identifier alice --rate 100/min --strategy token_bucket --burst 20 --cost 3
  ratelimitd check --namespace checkout --identifier alice --policy default
  ratelimitd check --namespace deploys --identifier prod --rate 1/h && ./deploy
  ratelimitd check --envoy-domain edge --entry api_key=alice --entry path=/login --cost 0
  ratelimitd check --addr limits.example.org --tls --token-file token --namespace checkout --identifier alice --rate 5/s`,
		Flags: set,
		Run: func(ctx context.Context, call command.Call) error {
			wrong := set.Apply(call.Line, set.Environment(os.LookupEnv))
			asEnvoy := descriptor.Domain != ""
			if asEnvoy {
				wrong = append(wrong, set.Without("envoy-domain", "namespace", "identifier", "rate", "policy", "strategy", "name", "burst", "dry-run"), descriptor.Check())
			} else {
				wrong = append(wrong, set.Need("namespace", "identifier"), set.OneOf("rate", "policy"), set.Without("policy", "strategy", "name", "burst"))
			}
			s, err := strategy.Parse(algorithm)
			if err != nil {
				wrong = append(wrong, set.Problem("strategy", ": "+err.Error()))
			}
			if !asEnvoy && descriptor.Entries != nil {
				wrong = append(wrong, set.Problem("entry", ": give --envoy-domain too"))
			}
			if wait <= 0 {
				wrong = append(wrong, set.Problem("wait", fmt.Sprintf(" %v: must be above 0, such as 2s", wait)))
			}
			if err := errors.Join(wrong...); err != nil {
				return err
			}
			if limit.Rate != "" {
				limit.Strategy = ratelimitv1.Strategy(s)
				in.Limits = []*ratelimitv1.Limit{limit}
			}
			link, err := how.Open(os.LookupEnv)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			var answer check.Answer
			if asEnvoy {
				descriptor.Hits = in.GetCost()
				answer, err = check.AskEnvoy(ctx, addr, link, &descriptor)
			} else {
				answer, err = check.Ask(ctx, addr, link, in)
			}
			switch {
			case err != nil:
				return err
			case json:
				err = answer.PrintJSON(call.Stdout)
			default:
				answer.Print(call.Stdout)
			}
			if err == nil && !answer.Allowed() {
				return errNo
			}
			return err
		},
	}
}
