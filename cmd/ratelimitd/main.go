// Command ratelimitd answers one question for services in any language: may
// this caller do this now?
//
//	ratelimitd serve      run the service; needs nothing but a free port
//	ratelimitd validate   check configuration files
//	ratelimitd check      ask a running service, from a shell
//	ratelimitd reset      forget what an identifier has consumed
//	ratelimitd top        show what a running service does, and for whom
//	ratelimitd replay     say what limits would have done, from an access log
//	ratelimitd token      make a token for a client
//	ratelimitd version    print the version
//
// By the name ratelimit, which is that of envoyproxy/ratelimit, it serves without being
// told to.
//
// Every flag has an environment variable too: RATELIMITD_GRPC_ADDR sets
// --grpc-addr, and so on. A flag wins over the environment.
//
// The exit status is 0 when all went well (check: the request is allowed), 1
// when check's request is denied or a file that validate checks cannot be used,
// and 2 after an error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/build"
	"github.com/ratelimitd/ratelimitd/internal/check"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/daemon"
	"github.com/ratelimitd/ratelimitd/internal/replay"
	"github.com/ratelimitd/ratelimitd/internal/top"
)

const (
	exitOK = iota
	exitNo // denied, invalid
	exitError
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal does not wait
	daemon.LogLibraries()
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// nameThatServes is what the program of envoyproxy/ratelimit is called. Whoever starts this
// one by that name, as Envoy Gateway does in its pods, gives it no command.
const nameThatServes = "ratelimit"

// newProgram returns the program as it is when it is started by a name.
func newProgram(name string) *command.Program {
	program := &command.Program{
		Name:     "ratelimitd",
		Summary:  "A rate-limit service: may this caller do this now?",
		Version:  build.Version(version),
		Commands: slices.Concat([]*command.Command{serveCommand(), validateCommand()}, check.Commands(), []*command.Command{top.Command(), replay.Command(), tokenCommand(), versionCommand()}),
	}
	if filepath.Base(name) == nameThatServes {
		program.Default = "serve"
	}
	return program
}

// run runs the command that args name and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	switch err := newProgram(os.Args[0]).Run(ctx, args, stdout, stderr); {
	case err == nil:
		return exitOK
	case errors.Is(err, command.ErrNo):
		return exitNo
	default:
		separator := " "
		if strings.Contains(err.Error(), "\n") { // so that the first of several lines looks like the rest
			separator = "\n"
		}
		// Nobody may read it, and the process must end.
		printed := make(chan struct{})
		go func() {
			defer close(printed)
			fmt.Fprintf(stderr, "ratelimitd:%s%v\n", separator, err)
		}()
		select {
		case <-printed:
		case <-time.After(daemon.LogPatience):
		}
		return exitError
	}
}
