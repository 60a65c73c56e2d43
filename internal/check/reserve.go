package check

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func reserveCommand() *command.Command {
	in := &ratelimitv1.ShouldAllowRequest{Cost: new(uint64(1))}
	q := newQuestion(
		flags.Flag{Name: "cost", Value: flags.Number(in.Cost), Help: "The estimate to take now, in units."},
	)
	return &command.Command{
		Name:    "reserve",
		Summary: "Take an estimate, for work whose cost is known only when it is done. Prints the reservation that \"ratelimitd commit\" settles, and nothing else. Exits with 0, with 1 if it is denied, 2 after an error.",
		Examples: `Examples:
  id=$(ratelimitd reserve --namespace llm --identifier alice --policy tokens --cost 500) &&
    ratelimitd commit --reservation "$id" --actual 420`,
		Flags: q.set,
		Run: func(ctx context.Context, call command.Call) error {
			limits, wrong := q.limits(q.read(call))
			return q.ask(ctx, wrong, func(ctx context.Context, to *daemon) error {
				in.Namespace, in.Identifier, in.Policy, in.Limits = q.namespace, q.identifier, q.policy, limits
				id, answer, err := to.reserve(ctx, in)
				if err != nil {
					return err
				}
				if !answer.GetAllowed() {
					response{ShouldAllowResponse: answer}.print(call.Stderr)
					return command.ErrNo
				}
				_, err = fmt.Fprintln(call.Stdout, base64.StdEncoding.EncodeToString(id))
				return err
			})
		},
	}
}

func commitCommand() *command.Command {
	var reservation string
	var actual uint64
	json := false
	var c contact
	c.flagsOf([]flags.Flag{
		{Name: "reservation", Value: flags.Text(&reservation), Hint: "ID", Required: true, Help: "What \"ratelimitd reserve\" printed."},
		{Name: "actual", Value: flags.Number(&actual), Help: "How many units were really used; 0 gives all of the estimate back."},
		{Name: "json", Value: flags.Bool(&json), Help: "Print the answer as JSON."},
	})
	return &command.Command{
		Name:    "commit",
		Summary: "Settle a reservation with what was really used. It counts once, however often it is sent. Exits with 0, with 1 if more was used than the limits allow, 2 after an error.",
		Examples: `Examples:
  ratelimitd commit --reservation "$id" --actual 420
  ratelimitd commit --reservation "$id" --actual 0`,
		Flags: c.set,
		Run: func(ctx context.Context, call command.Call) error {
			wrong := c.read(call)
			id, err := base64.StdEncoding.DecodeString(reservation)
			if err != nil {
				wrong = append(wrong, c.set.Problem("reservation", fmt.Sprintf(" %s: give what \"ratelimitd reserve\" printed", quote.Cut(reservation))))
			}
			return c.ask(ctx, wrong, func(ctx context.Context, to *daemon) error {
				answer, repeated, err := to.commit(ctx, id, actual)
				if err != nil {
					return err
				}
				if repeated {
					fmt.Fprintln(call.Stderr, "this reservation was settled before: nothing has changed")
				}
				return say(call, response{ShouldAllowResponse: answer, settled: true}, json)
			})
		},
	}
}
