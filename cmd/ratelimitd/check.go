package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

type checkCmd struct {
	Namespace  string `required:"" placeholder:"NAME" help:"Who owns the counters, such as checkout."`
	Identifier string `required:"" placeholder:"NAME" help:"Who is being limited, such as user:42."`

	Rate     string `xor:"what" required:"" placeholder:"RATE" help:"The rate to hold it to, such as 100/min, 5/s or 10/30s."`
	Policy   string `xor:"what" required:"" placeholder:"NAME" help:"Or the policy of the server's configuration."`
	Strategy string `default:"fixed_window" help:"One of ${strategies}."`
	Name     string `placeholder:"NAME" help:"Names the limit's counter, which then outlives a change of its rate."`
	Burst    uint64 `placeholder:"N" help:"The capacity of token_bucket, leaky_bucket and gcra; 0 for the strategy's default."`

	Cost   uint64        `default:"1" help:"How many units to ask for; 0 only looks."`
	DryRun bool          `help:"Decide, and consume nothing."`
	Addr   string        `default:"127.0.0.1:8081" help:"The service's gRPC address."`
	Wait   time.Duration `default:"2s" help:"The longest to wait for the answer."`
	JSON   bool          `name:"json" help:"Print the answer as JSON."`
}

// Help is shown by "ratelimitd check --help".
func (checkCmd) Help() string {
	return `Examples:

  ratelimitd check --namespace checkout --identifier alice --rate 5/s
  ratelimitd check --namespace checkout --identifier alice --rate 100/min --strategy token_bucket --burst 20 --cost 3
  ratelimitd check --namespace deploys --identifier prod --rate 1/h && ./deploy`
}

// Run asks, prints the answer, and returns errNo if that is no.
func (c *checkCmd) Run(ctx context.Context, out io.Writer) error {
	in, err := c.request()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("--addr %q: %w", c.Addr, err)
	}
	defer func() { _ = conn.Close() }()

	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	answer, err := ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllow(ctx, in)
	if err != nil {
		st := status.Convert(err)
		return fmt.Errorf("ask %s: %s: %s", c.Addr, st.Code(), st.Message())
	}
	if c.JSON {
		text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(answer)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\n", text)
	} else {
		c.print(out, answer)
	}
	if !answer.GetAllowed() {
		return errNo
	}
	return nil
}

func (c *checkCmd) request() (*ratelimitv1.ShouldAllowRequest, error) {
	in := &ratelimitv1.ShouldAllowRequest{
		Namespace: c.Namespace, Identifier: c.Identifier, Policy: c.Policy, Cost: &c.Cost, DryRun: c.DryRun,
	}
	if c.Rate != "" {
		s, err := strategy.Parse(c.Strategy)
		if err != nil {
			return nil, fmt.Errorf("--strategy: %w", err)
		}
		in.Limits = []*ratelimitv1.Limit{{Rate: c.Rate, Strategy: ratelimitv1.Strategy(s), Burst: c.Burst, Name: c.Name}}
	}
	return in, nil
}

// print prints answer for a person.
func (c *checkCmd) print(out io.Writer, answer *ratelimitv1.ShouldAllowResponse) {
	verdict := "denied"
	if answer.GetAllowed() {
		verdict = "allowed"
	}
	fmt.Fprintf(out, "%s (%s)\n", verdict, strings.ToLower(strings.ReplaceAll(answer.GetReason().String(), "_", " ")))
	if !answer.GetAllowed() && answer.GetReason() == ratelimitv1.Reason_OVER_LIMIT {
		if answer.GetRetryAfter() == nil {
			fmt.Fprintln(out, "  retry after: never, the cost is above what the limit ever allows")
		} else {
			fmt.Fprintf(out, "  retry after: %v\n", duration(answer.GetRetryAfter()))
		}
	}
	if answer.GetDelay() != nil {
		fmt.Fprintf(out, "  hold it for: %v\n", duration(answer.GetDelay()))
	}
	for _, st := range answer.GetStatuses() {
		name := st.GetName()
		if name == "" {
			name = "limit"
		}
		if st.GetLimit() == math.MaxUint64 {
			fmt.Fprintf(out, "  %s: unlimited\n", name)
			continue
		}
		fmt.Fprintf(out, "  %s: %d of %d left", name, st.GetRemaining(), st.GetLimit())
		if reset := duration(st.GetResetAfter()); reset > 0 {
			fmt.Fprintf(out, ", all of them in %v", reset)
		}
		fmt.Fprintln(out)
	}
}

func duration(d *durationpb.Duration) time.Duration { return d.AsDuration() }
