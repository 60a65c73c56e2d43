// Command ratelimitd answers one question for services in any language: may
// this caller do this now?
//
//	ratelimitd serve      run the service; needs nothing but a free port
//	ratelimitd validate   check configuration files
//	ratelimitd check      ask a running service, from a shell
//	ratelimitd top        show what a running service does, and for whom
//	ratelimitd version    say which version this is
//
// Every flag can be set by an environment variable too: --grpc-addr by
// RATELIMITD_GRPC_ADDR, and so on. A flag wins over the environment.
//
// The exit status is 0 when all went well (check: the request is allowed), 1
// when check's request is denied or a file that validate checks can not be used,
// and 2 after an error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// version is set when a release is built.
var version string

const (
	exitOK = iota
	exitNo // denied, invalid
	exitError
)

// errNo is what a command returns whose answer, already printed, is no.
var errNo = errors.New("no")

// envPrefix is what the environment variables of flags begin with.
const envPrefix = "RATELIMITD"

type cli struct {
	Serve    serveCmd    `cmd:"" help:"Run the service. With no flags it keeps its counters in memory and needs nothing installed."`
	Validate validateCmd `cmd:"" help:"Check configuration files. Exits with 1, and says all that is wrong, if they can not be used."`
	Check    checkCmd    `cmd:"" help:"Ask a running service whether a request is allowed. Exits with 0 if it is, 1 if it is denied, 2 after an error."`
	Top      topCmd      `cmd:"" help:"Show what a running service does at present, and for whom."`
	Version  versionCmd  `cmd:"" help:"Print the version."`

	PrintVersion kong.VersionFlag `name:"version" env:"-" help:"Print the version, as the command does."`
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(out io.Writer) error {
	_, err := fmt.Fprintln(out, "ratelimitd", versionString())
	return err
}

// versionString returns the release, or what the build recorded.
func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal does not wait
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs the command that args give and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (status int) {
	defer func() { // kong exits by this panic, after it has printed the help that was asked for
		switch p := recover().(type) {
		case nil:
		case exited:
			status = int(p)
		default:
			panic(p)
		}
	}()
	command, err := newParser(ctx, stdout, stderr, new(cli)).Parse(args)
	if err == nil {
		err = command.Run(stderrWriter{stderr})
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNo):
		return exitNo
	default:
		separator := " "
		if strings.Contains(err.Error(), "\n") { // the first of several lines is not to look other than the rest
			separator = "\n"
		}
		fmt.Fprintf(stderr, "ratelimitd:%s%v\n", separator, err)
		return exitError
	}
}

// newParser returns a parser that sets c to what the arguments say.
func newParser(ctx context.Context, stdout, stderr io.Writer, c *cli) *kong.Kong {
	parser, err := kong.New(c,
		kong.Name("ratelimitd"),
		kong.Description("A rate-limit service: may this caller do this now?"),
		kong.DefaultEnvars(envPrefix),
		kong.Vars{"strategies": strategyNames(), "version": "ratelimitd " + versionString()},
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(stdout, (*io.Writer)(nil)),
	)
	if err != nil {
		panic(err) // the cli type is wrong
	}
	return parser
}

// strategyNames lists the strategies for the help.
func strategyNames() string {
	names := make([]string, len(strategy.All))
	for i, s := range strategy.All {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}

// exited is the status with which kong wants the process to exit.
type exited int

// A stderrWriter is where serve's log goes.
type stderrWriter struct{ io.Writer }
