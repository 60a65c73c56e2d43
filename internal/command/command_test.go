package command_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/flags"
)

var errRan = errors.New("it ran")

// program has one command with arguments, and one without.
func program(ran *command.Call) *command.Program {
	secret := ""
	run := func(_ context.Context, call command.Call) error { *ran = call; return errRan }
	return &command.Program{Name: "prog", Summary: "Does things.", Version: "v1", Commands: []*command.Command{
		{Name: "read", Summary: "Read files.", Args: "FILE ...", Flags: &flags.Set{}, Run: run},
		{Name: "serve", Summary: "Serve.", Examples: "Examples:\n  prog serve", Run: run, Flags: &flags.Set{Flags: []flags.Flag{
			{Name: "password", Value: flags.Text(&secret), Secret: true, Hint: "PASSWORD", Help: "A password."},
		}}},
	}}
}

func TestRun(t *testing.T) {
	for args, want := range map[string]string{
		"read a b":                "it ran",
		"serve --password=x":      "it ran",
		"":                        "no command; use read or serve",
		"reed a":                  `unknown command "reed"; did you mean read?`,
		"banana":                  `unknown command "banana"; use read or serve`,
		"--password=hunter2":      `the command comes first, before flag "--password"; use read or serve`,
		"read":                    "read: expected FILE ...; see prog read --help",
		"serve now":               `serve: unexpected argument "now"; see prog serve --help`,
		"serve --password= hunt":  "serve: unexpected argument; see prog serve --help",
		"serve --pasword=hunter2": `serve: unknown flag "--pasword" (did you mean --password?); see prog serve --help`,
	} {
		var call command.Call
		err := program(&call).Run(t.Context(), strings.Fields(args), nil, nil)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
		if args == "read a b" && !slices.Equal(call.Args, []string{"a", "b"}) || args == "serve --password=x" && call.Line["password"].Text != "x" {
			t.Errorf("%s: called with %+v", args, call)
		}
	}
}

func TestHelp(t *testing.T) {
	for args, want := range map[string]string{
		"--help": "Usage: prog COMMAND [flags]", "-h": "  read        Read files.", "help": "Does things.",
		"--version": "prog v1\n", "serve --version": "prog v1\n",
		"read --help": "Usage: prog read [flags] FILE ...\n\nRead files.\n", "serve -h": "Examples:\n  prog serve\n", "serve --help": "--password=PASSWORD",
	} {
		var out strings.Builder
		if err := program(new(command.Call)).Run(t.Context(), strings.Fields(args), &out, nil); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, %s", args, err, out.String())
		}
	}
}

func TestDefault(t *testing.T) {
	for args, want := range map[string]string{"": "it ran", "--password=x": "it ran", "serve": "it ran", "now": `unknown command "now"; use read or serve`} {
		p := program(new(command.Call))
		p.Default = "serve"
		if err := p.Run(t.Context(), strings.Fields(args), nil, nil); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", args, err, want)
		}
	}
}
