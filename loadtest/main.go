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
	"syscall"

	"github.com/ratelimitd/ratelimitd/internal/build"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/gctuning"
)

const (
	exitOK = iota
	exitWrong
	exitError
)

func main() {
	gctuning.KeepRoom(gctuning.DefaultRoom) // as the daemon does: the null server is what it is measured against
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := runCommand(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// runCommand runs the command in args and returns its exit status.
func runCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	load, null, bench := newRunCmd(), newNullCmd(), newBenchCmd()
	all := &command.Program{
		Name:    "loadtest",
		Summary: "Measures rate-limit services, and whether they keep to the limits while they are fast.",
		Version: build.Version(""),
		Default: "run",
		Commands: []*command.Command{
			{Name: "run", Summary: "Put a load on a server and report what it did.", Examples: runExamples, Flags: load.flags(), Run: func(ctx context.Context, call command.Call) error {
				return load.Run(ctx, call.Stdout, call.Stderr)
			}},
			{Name: "null", Summary: "Serve the same API and decide nothing: the baseline.", Flags: null.flags(), Run: func(ctx context.Context, call command.Call) error {
				return null.Run(ctx, call.Stdout)
			}},
			{Name: "bench", Summary: "Run a published comparison of a baseline and a subject, and write the results.", Flags: bench.flags(), Run: func(ctx context.Context, call command.Call) error {
				return bench.Run(ctx, call.Stdout, call.Stderr)
			}},
		},
	}
	for _, c := range all.Commands {
		commandRun := c.Run
		c.Run = func(ctx context.Context, call command.Call) error {
			if wrong := c.Flags.Apply(call.Line); wrong != nil {
				return errors.Join(wrong...)
			}
			return commandRun(ctx, call)
		}
	}
	err := all.Run(ctx, args, stdout, stderr)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "loadtest: %v\n", err)
	if errors.Is(err, errWrong) {
		return exitWrong
	}
	return exitError
}
