package main

import (
	"context"
	"os"

	"github.com/ratelimitd/ratelimitd/internal/build"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/daemon"
)

func serveCommand() *command.Command {
	return &command.Command{
		Name:    "serve",
		Summary: "Run the service. With no flags it keeps its counters in memory and needs nothing installed.",
		Examples: `Examples:
  ratelimitd serve
      Counters in memory, gRPC on :8081, HTTP on :8080.
  ratelimitd serve --store=redis --redis-url=redis://10.0.0.5:6379 --on-error=deny
      Counters in Redis, shared by all daemons that use it. While Redis is away, deny.
  ratelimitd serve --config=ratelimitd.yaml
      Policies from a file. Check it beforehand with ratelimitd validate.

SIGTERM and SIGINT stop it: its health turns to NOT_SERVING, it answers the calls
under way, and exits with 0. On SIGHUP it reads its configuration again.`,
		Flags: config.Default().Flags(),
		Run:   serve,
	}
}

// serve serves until ctx ends.
func serve(ctx context.Context, call command.Call) error {
	c, policies, err := config.Read(call.Line, os.LookupEnv)
	if err != nil {
		return err
	}
	return daemon.Run(ctx, c, policies, build.Version(version), call.Stderr)
}
