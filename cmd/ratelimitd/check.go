package main

import (
	"context"

	"github.com/ratelimitd/ratelimitd/internal/check"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func checkCommand() *command.Command {
	cost, dryRun, json := uint64(1), false, false
	q := newQuestion(
		flags.Flag{Name: "cost", Value: flags.Number(&cost), Help: "How many units to ask for; 0 only looks."},
		flags.Flag{Name: "dry-run", Value: flags.Bool(&dryRun), Help: "Decide, and consume nothing."},
		flags.Flag{Name: "json", Value: flags.Bool(&json), Help: "Print the answer as JSON."},
	)
	return &command.Command{
		Name:    "check",
		Summary: "Ask a running service whether a request is allowed. Exits with 0 if it is, 1 if it is denied, 2 after an error.",
		Examples: `Examples:
  ratelimitd check --namespace checkout --identifier alice --rate 5/s
  ratelimitd check --namespace checkout --identifier alice --rate 100/min --strategy token_bucket --burst 20 --cost 3
  ratelimitd check --namespace checkout --identifier alice --policy default
  ratelimitd check --namespace deploys --identifier prod --rate 1/h && ./deploy
  ratelimitd check --addr limits.example.org --tls --token-file token --namespace checkout --identifier alice --rate 5/s`,
		Flags: q.set,
		Run: func(ctx context.Context, call command.Call) error {
			return q.ask(ctx, call, func(ctx context.Context, daemon *check.Daemon, limits []*ratelimitv1.Limit) error {
				answer, err := daemon.Ask(ctx, &ratelimitv1.ShouldAllowRequest{
					Namespace: q.namespace, Identifier: q.identifier, Policy: q.policy, Limits: limits, Cost: &cost, DryRun: dryRun,
				})
				switch {
				case err != nil:
					return err
				case json:
					err = check.PrintJSON(call.Stdout, answer)
				default:
					check.Print(call.Stdout, answer)
				}
				if err == nil && !answer.GetAllowed() {
					return errNo
				}
				return err
			})
		},
	}
}
