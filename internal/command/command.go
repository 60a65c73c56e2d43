// Package command runs a program that has several commands, such as "serve" and
// "check", each with flags of its own.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/spelling"
)

// A Program is a list of commands.
type Program struct {
	Name     string
	Summary  string // what it is for, in a sentence
	Version  string
	Commands []*Command
	// Default is the command that runs if the arguments begin with a flag. "": none.
	Default string
}

// A Command is one thing that a program does.
type Command struct {
	Name     string
	Summary  string // what it does, in a sentence or two
	Examples string // and what else its help says; "" for nothing
	Flags    *flags.Set
	// Args is what the help calls the arguments that are not flags: "FILE ...".
	// "": there are none, or else there is at least one.
	Args string
	Run  func(context.Context, Call) error
}

// ErrNo is what a Command returns whose answer, already printed, is no.
var ErrNo = errors.New("no")

// A Call is what the command line says.
type Call struct {
	Line           flags.Source // what it sets the flags to
	Args           []string     // what is not a flag
	Stdout, Stderr io.Writer
}

// Run runs the command that args name. It prints help and the version where args
// ask for them.
func (p *Program) Run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	c := p.lookup(name)
	switch {
	case c != nil:
		args = args[1:]
	case name == "--help" || name == "-h" || name == "help":
		p.help(stdout)
		return nil
	case name == "--version":
		fmt.Fprintln(stdout, p.Name, p.Version)
		return nil
	case p.Default != "" && (name == "" || strings.HasPrefix(name, "-")):
		c = p.lookup(p.Default)
	default:
		return p.unknown(name)
	}
	line, rest, err := c.Flags.Parse(args)
	switch {
	case errors.Is(err, flags.ErrHelp):
		p.helpOf(c, stdout)
		return nil
	case errors.Is(err, flags.ErrVersion):
		fmt.Fprintln(stdout, p.Name, p.Version)
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w; see %s %s --help", c.Name, err, p.Name, c.Name)
	case c.Args == "" && len(rest) > 0:
		return fmt.Errorf("%s: unexpected argument%s; see %s %s --help", c.Name, quoteUnlessSecret(c, line, rest[0]), p.Name, c.Name)
	case c.Args != "" && len(rest) == 0:
		return fmt.Errorf("%s: expected %s; see %s %s --help", c.Name, c.Args, p.Name, c.Name)
	}
	return c.Run(ctx, Call{Line: line, Args: rest, Stdout: stdout, Stderr: stderr})
}

// quoteUnlessSecret quotes an argument, unless it may be a password that a space
// parts from its flag.
func quoteUnlessSecret(c *Command, line flags.Source, arg string) string {
	for _, f := range c.Flags.Flags {
		if _, given := line[f.Name]; given && f.Secret {
			return ""
		}
	}
	return " " + flags.Quote(arg)
}

func (p *Program) lookup(name string) *Command {
	for _, c := range p.Commands {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// unknown says that there is no command of that name, and which there are.
func (p *Program) unknown(name string) error {
	names := make([]string, len(p.Commands))
	for i, c := range p.Commands {
		names[i] = c.Name
	}
	known := strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
	switch meant, ok := spelling.Closest(name, names); {
	case name == "":
		return fmt.Errorf("no command; use %s", known)
	case strings.HasPrefix(name, "-"):
		return fmt.Errorf("the command comes first, before flag %s; use %s", flags.Quote(strings.SplitN(name, "=", 2)[0]), known)
	case ok:
		return fmt.Errorf("unknown command %s; did you mean %s?", flags.Quote(name), meant)
	default:
		return fmt.Errorf("unknown command %s; use %s", flags.Quote(name), known)
	}
}

func (p *Program) help(w io.Writer) {
	fmt.Fprintf(w, "%s\n\nUsage: %s COMMAND [flags]\n\nCommands:\n", p.Summary, p.Name)
	for _, c := range p.Commands {
		for i, line := range flags.Wrap(c.Summary, 66) {
			name := ""
			if i == 0 {
				name = c.Name
			}
			fmt.Fprintf(w, "  %-10s  %s\n", name, line)
		}
	}
	fmt.Fprintf(w, "\nRun \"%s COMMAND --help\" for the flags of a command, and \"%s --version\" for the version.\n", p.Name, p.Name)
}

func (p *Program) helpOf(c *Command, w io.Writer) {
	usage := p.Name + " " + c.Name + " [flags]"
	if c.Args != "" {
		usage += " " + c.Args
	}
	fmt.Fprintf(w, "Usage: %s\n\n%s\n", usage, strings.Join(flags.Wrap(c.Summary, 80), "\n"))
	if c.Examples != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(c.Examples))
	}
	c.Flags.Help(w)
}
