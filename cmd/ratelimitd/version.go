package main

import (
	"context"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/build"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// version is set when a release is built.
var version string

func versionCommand() *command.Command {
	return &command.Command{
		Name:    "version",
		Summary: "Print the version.",
		Flags:   &flags.Set{},
		Run: func(_ context.Context, call command.Call) error {
			_, err := fmt.Fprintln(call.Stdout, "ratelimitd", build.Version(version))
			return err
		},
	}
}
