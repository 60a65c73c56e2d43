// Package check has the commands that ask a running daemon: check, reserve, commit and
// reset. They print its answer for a person, or as JSON.
package check

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// Commands returns them.
func Commands() []*command.Command {
	return []*command.Command{checkCommand(), reserveCommand(), commitCommand(), resetCommand()}
}

func checkCommand() *command.Command {
	in := &ratelimitv1.ShouldAllowRequest{Cost: new(uint64(1))}
	mode, consumedAt, json := strategy.Take.String(), "", false
	var d descriptor
	q := newQuestion(
		flags.Flag{Name: "envoy-domain", Value: flags.Text(&d.domain), Hint: "NAME", Help: "Instead of all above: ask as Envoy does, for a descriptor of this domain. Needs --entry."},
		flags.Flag{Name: "entry", Value: flags.Lines(&d.entries), Hint: "KEY=VALUE", Help: "With --envoy-domain: an entry of the descriptor. Repeat it for several, in their order."},
		flags.Flag{Name: "cost", Value: flags.Number(in.Cost), Help: "How many units to ask for; 0 only looks."},
		flags.Flag{Name: "mode", Value: flags.OneOf(&mode, strategy.Modes[:]...), Help: "What to do with the cost: take it if the limits allow it, charge it whatever is left, or refund it."},
		flags.Flag{Name: "consumed-at", Value: flags.Text(&consumedAt), Hint: "TIME", Help: "With --mode=refund: the decided_at of what is given back, such as 2026-01-31T12:00:00.5Z."},
		flags.Flag{Name: "dry-run", Value: flags.Bool(&in.DryRun), Help: "Decide, and change nothing."},
		flags.Flag{Name: "json", Value: flags.Bool(&json), Help: "Print the answer as JSON."},
	)
	return &command.Command{
		Name:    "check",
		Summary: "Ask a running service whether a request is allowed. Exits with 0 if it is, 1 if it is denied or charged over a limit, 2 after an error.",
		Examples: `Examples:
  ratelimitd check --namespace checkout --identifier alice --rate 5/s
  ratelimitd check --namespace checkout --identifier alice --rate 100/min --strategy token_bucket --burst 20 --cost 3
  ratelimitd check --namespace checkout --identifier alice --policy default
  ratelimitd check --namespace checkout --identifier alice --policy default --mode charge --cost 1200
  ratelimitd check --namespace deploys --identifier prod --rate 1/h && ./deploy
  ratelimitd check --envoy-domain edge --entry api_key=alice --entry path=/login --cost 0
  ratelimitd check --addr limits.example.org --tls --token-file token --namespace checkout --identifier alice --rate 5/s`,
		Flags: q.set,
		Run: func(ctx context.Context, call command.Call) error {
			wrong := q.read(call)
			m, _ := strategy.ParseMode(mode) // which its flag has checked
			in.Mode = ratelimitv1.Mode(m) + ratelimitv1.Mode_TAKE
			if consumedAt != "" {
				at, err := time.Parse(time.RFC3339Nano, consumedAt)
				if err != nil || m != strategy.Refund {
					wrong = append(wrong, q.set.Problem("consumed-at", fmt.Sprintf(" %s: goes with --mode=refund, and is a time such as 2026-01-31T12:00:00.5Z", quote.Cut(consumedAt))))
				}
				in.ConsumedAt = timestamppb.New(at)
			}
			if d.domain != "" {
				not := append([]string{"namespace", "identifier", "rate", "policy", "mode", "consumed-at", "dry-run"}, limitFlags...)
				wrong = append(wrong, q.set.Without("envoy-domain", not...), d.check())
				return q.ask(ctx, wrong, func(ctx context.Context, to *daemon) error {
					d.hits = in.GetCost()
					answer, err := to.askEnvoy(ctx, &d)
					if err != nil {
						return err
					}
					return say(call, answer, json)
				})
			}
			if d.entries != nil {
				wrong = append(wrong, q.set.Problem("entry", ": give --envoy-domain too"))
			}
			limits, wrong := q.limits(wrong)
			return q.ask(ctx, wrong, func(ctx context.Context, to *daemon) error {
				in.Namespace, in.Identifier, in.Policy, in.Limits = q.namespace, q.identifier, q.policy, limits
				answer, err := to.ask(ctx, in)
				if err != nil {
					return err
				}
				return say(call, response{ShouldAllowResponse: answer, mode: m, dryRun: in.GetDryRun()}, json)
			})
		},
	}
}
