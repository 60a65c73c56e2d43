package check

import (
	"context"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/command"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func resetCommand() *command.Command {
	q := newQuestion()
	return &command.Command{
		Name:    "reset",
		Summary: "Have a running service forget what an identifier has consumed of a limit, or of all limits of a policy. Exits with 0 when it has, 2 after an error.",
		Examples: `Examples:
  ratelimitd reset --namespace checkout --identifier alice --policy default
  ratelimitd reset --namespace checkout --identifier alice --rate 5/s

Name the limit as the requests do: its rate, strategy and burst, or its strategy and
name. The service permits this on a gRPC port that only its machine reaches, with
--allow-reset, or to a client with the operation "reset" in the file of --auth-file.
Replicas with a deny cache of their own may go on denying for --deny-cache-ttl.`,
		Flags: q.set,
		Run: func(ctx context.Context, call command.Call) error {
			limits, wrong := q.limits(q.read(call))
			return q.ask(ctx, wrong, func(ctx context.Context, to *daemon) error {
				err := to.reset(ctx, &ratelimitv1.ResetRequest{Namespace: q.namespace, Identifier: q.identifier, Policy: q.policy, Limits: limits})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(call.Stdout, "reset")
				return err
			})
		},
	}
}
