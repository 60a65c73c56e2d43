// Command loadtest measures how fast a rate-limit service is, and checks that it keeps
// to its limits.
//
//	loadtest run      put a load on a server and report what it did
//	loadtest null     serve the same API and decide nothing: the baseline
//	loadtest bench    run a published comparison of a baseline and a subject
//
// The exit status is 0 after success, 1 if the server allowed more than the limits
// permit, and 2 after an error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/ratelimitd/ratelimitd/internal/gctuning"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	exitOK = iota
	exitWrong
	exitError
)

// errWrong says that the server allowed more than the limits permit.
var errWrong = errors.New("the server allowed more than the limits permit")

type cli struct {
	Run   runCmd   `cmd:"" default:"withargs" help:"Put a load on a server and report what it did."`
	Null  nullCmd  `cmd:"" help:"Serve the same API and decide nothing: the baseline."`
	Bench benchCmd `cmd:"" help:"Run a published comparison of a baseline and a subject, and write the results."`
}

func main() {
	gctuning.KeepRoom(gctuning.DefaultRoom) // as the daemon does: the null server is what it is measured against
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exited is a panic of the exit function that kong calls. Its value is the status.
type exited int

// A stderrWriter receives the progress. It is a type of its own so that kong can tell it
// from the writer for results.
type stderrWriter struct{ io.Writer }

// run runs the command in args and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (status int) {
	defer func() { // kong exits by this panic after it has printed help
		switch p := recover().(type) {
		case nil:
		case exited:
			status = int(p)
		default:
			panic(p)
		}
	}()
	names := make([]string, len(strategy.All))
	for i, s := range strategy.All {
		names[i] = s.String()
	}
	var c cli
	parser, err := kong.New(&c,
		kong.Name("loadtest"),
		kong.Description("Measures rate-limit services, and whether they keep to the limits while they are fast."),
		kong.Vars{"strategies": strings.Join(names, ", ")},
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(stdout, (*io.Writer)(nil)),
	)
	if err != nil {
		panic(err) // the cli type is wrong
	}
	command, err := parser.Parse(args)
	if err == nil {
		err = command.Run(stderrWriter{stderr})
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errWrong):
		fmt.Fprintf(stderr, "loadtest: %v\n", err)
		return exitWrong
	default:
		fmt.Fprintf(stderr, "loadtest: %v\n", err)
		return exitError
	}
}
