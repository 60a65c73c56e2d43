package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/connect"
	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// Command returns the command that shows what a daemon does.
func Command() *command.Command {
	w := &Watch{Addr: "127.0.0.1:6070", Interval: 2 * time.Second, Lines: 10}
	var how connect.Options
	set := &flags.Set{EnvPrefix: config.EnvPrefix, Flags: append([]flags.Flag{
		{Name: "admin-addr", Value: flags.Address(&w.Addr, "6070"), Help: "The daemon's admin address. Without a port: port 6070."},
		{Name: "interval", Value: flags.Duration(&w.Interval), Help: "How often to look."},
		{Name: "lines", Short: "n", Value: flags.Number(&w.Lines), Help: "The most lines of each kind."},
		{Name: "once", Value: flags.Bool(&w.Once), Help: "Look for one interval, and exit."},
		{Name: "json", Value: flags.Bool(&w.JSON), Help: "Print JSON, an object for each interval, with rates per second and durations in seconds."},
	}, how.Flags()...)}
	return &command.Command{
		Name:    "top",
		Summary: "Show what a running service does at present, and for whom.",
		Examples: `Examples:
  ratelimitd top
      What the daemon on this machine does, until interrupted.
  ratelimitd top --once --json | jq '.denied_most[0]'
      Who is denied most at present.`,
		Flags: set,
		Run: func(ctx context.Context, call command.Call) error {
			wrong := set.Apply(call.Line, set.Environment(os.LookupEnv))
			if w.Interval < 100*time.Millisecond {
				wrong = append(wrong, set.Problem("interval", fmt.Sprintf(" %v: must be 100ms or more, such as 2s", w.Interval)))
			}
			if w.Lines < 1 {
				wrong = append(wrong, set.Problem("lines", fmt.Sprintf(" %d: must be above 0, such as 10", w.Lines)))
			}
			if err := errors.Join(wrong...); err != nil {
				return err
			}
			var err error
			if w.Link, err = how.Open(os.LookupEnv); err != nil {
				return err
			}
			return w.Run(ctx, call.Stdout)
		},
	}
}
