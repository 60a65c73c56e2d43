package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/ratelimitd/ratelimitd/internal/build"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/tracing"
)

func validateCommand() *command.Command {
	return &command.Command{
		Name:    "validate",
		Summary: "Check configuration files. Prints all that is wrong with them. Exits with 1 if one of them cannot be used.",
		Examples: `Examples:
  ratelimitd validate ratelimitd.yaml
  ratelimitd validate envoy-config/

A file that has a domain is one of Envoy's, as in the directory of
--envoy-config-dir. Any other is a file of --config. A directory stands for the
*.yaml files in it and below. Each file is read as "ratelimitd serve" would, with
the same environment variables, and nothing is started.`,
		Args:  "FILE ...",
		Flags: &flags.Set{},
		Run: func(ctx context.Context, call command.Call) error {
			v := &config.Validation{Lookup: os.LookupEnv, Stdout: call.Stdout, Stderr: call.Stderr, Check: func(c *config.Config) error {
				if !c.Tracing {
					return nil
				}
				spans, err := tracing.NewProvider(ctx, build.Version(version), slog.New(slog.NewTextHandler(call.Stderr, nil)))
				if err != nil {
					return err
				}
				return spans.Shutdown(ctx)
			}}
			if !v.Run(call.Args) {
				return command.ErrNo
			}
			return nil
		},
	}
}
