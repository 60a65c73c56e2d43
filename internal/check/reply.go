package check

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A reply is what a daemon said.
type reply interface {
	allowed() bool
	print(out io.Writer)           // for a person
	printJSON(out io.Writer) error // on one line
}

// say prints a reply. The error says how to exit.
func say(call command.Call, r reply, json bool) error {
	if json {
		if err := r.printJSON(call.Stdout); err != nil {
			return err
		}
	} else {
		r.print(call.Stdout)
	}
	if !r.allowed() {
		return command.ErrNo
	}
	return nil
}

// response is the reply to a request of our own API.
type response struct {
	*ratelimitv1.ShouldAllowResponse
	mode    strategy.Mode
	dryRun  bool
	settled bool // it is of a commit
}

// allowed implements reply.
func (r response) allowed() bool { return r.GetAllowed() }

// printJSON implements reply.
func (r response) printJSON(out io.Writer) error { return printMessage(out, r.ShouldAllowResponse) }

func printMessage(out io.Writer, m proto.Message) error {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}

// print implements reply.
func (r response) print(out io.Writer) {
	answer := r.ShouldAllowResponse
	fmt.Fprintf(out, "%s (%s)\n", r.verdict(), strings.ToLower(strings.ReplaceAll(answer.GetReason().String(), "_", " ")))
	if !answer.GetAllowed() && answer.GetReason() == ratelimitv1.Reason_OVER_LIMIT {
		if answer.GetRetryAfter() == nil {
			fmt.Fprintln(out, "  retry after: never, the cost is above what the limit ever allows")
		} else {
			fmt.Fprintf(out, "  retry after: %v\n", answer.GetRetryAfter().AsDuration())
		}
	}
	if answer.GetDelay() != nil {
		fmt.Fprintf(out, "  hold it for: %v\n", answer.GetDelay().AsDuration())
	}
	for _, st := range answer.GetStatuses() {
		printStatus(out, st)
	}
}

// verdict says what came of the request. A Charge and a Refund count whatever is left.
func (r response) verdict() string {
	done := "charged"
	switch {
	case r.settled:
		done = "settled"
	case r.mode == strategy.Charge:
	case r.mode == strategy.Refund:
		done = "refunded"
	default: // Take
		if r.GetAllowed() {
			return "allowed"
		}
		return "denied"
	}
	switch r.GetReason() {
	case ratelimitv1.Reason_EXEMPT, ratelimitv1.Reason_UNLIMITED, ratelimitv1.Reason_STORE_FAILURE:
		return "not " + done
	default:
	}
	if r.dryRun {
		return "would be " + done
	}
	return done
}

func printStatus(out io.Writer, st *ratelimitv1.LimitStatus) {
	name := st.GetName()
	if name == "" {
		name = "limit"
	}
	if st.GetLimit() == math.MaxUint64 {
		fmt.Fprintf(out, "  %s: unlimited\n", name)
		return
	}
	fmt.Fprintf(out, "  %s: %d of %d left", name, st.GetRemaining(), st.GetLimit())
	if reset := st.GetResetAfter().AsDuration(); reset > time.Duration(0) {
		fmt.Fprintf(out, ", all of them in %v", reset)
	}
	fmt.Fprintln(out)
}
