package main

import (
	"context"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/flags"
)

func tokenCommand() *command.Command {
	return &command.Command{
		Name:    "token",
		Summary: "Make a random token for a client. Prints the token, and the line that goes into the file of --auth-file.",
		Examples: `Examples:
  ratelimitd token new
      The first line is the token: give it to the client, and keep it nowhere else.
      The second is its hash: paste it under "tokens" of the client.`,
		Args:  "new",
		Flags: &flags.Set{},
		Run: func(_ context.Context, call command.Call) error {
			if len(call.Args) != 1 || call.Args[0] != "new" {
				return fmt.Errorf("token: unknown argument %s; write ratelimitd token new", flags.Quote(call.Args[0]))
			}
			token := auth.NewToken()
			_, err := fmt.Fprintf(call.Stdout, "%s\n- %s\n", token, auth.HashLine(token))
			return err
		},
	}
}
