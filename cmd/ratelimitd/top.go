package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/top"
)

type topCmd struct {
	AdminAddr string        `name:"admin-addr" default:"127.0.0.1:6070" help:"The daemon's admin address."`
	Interval  time.Duration `default:"2s" help:"How often to look."`
	Lines     int           `short:"n" default:"10" help:"The most lines of each kind."`
	Once      bool          `help:"Look for one interval, and exit."`
	JSON      bool          `name:"json" help:"Print JSON, an object for each interval, with rates per second and durations in seconds."`
}

// Help is shown by "ratelimitd top --help".
func (topCmd) Help() string {
	return `Examples:
  ratelimitd top
      What the daemon on this machine does, until interrupted.
  ratelimitd top --once --json | jq '.denied_most[0]'
      Who is denied most at present.`
}

// clear moves a terminal's cursor to its top left, and clears what is below.
const clear = "\x1b[H\x1b[J"

// Run shows the daemon until ctx ends.
func (c *topCmd) Run(ctx context.Context, out io.Writer) error {
	switch {
	case c.Interval < 100*time.Millisecond:
		return flagError{"interval", fmt.Sprintf("%v: must be 100ms or more, such as 2s", c.Interval)}
	case c.Lines < 1:
		return flagError{"lines", fmt.Sprintf("%d: must be above 0, such as 10", c.Lines)}
	}
	client := &http.Client{Timeout: max(c.Interval, 5*time.Second)}
	before, err := top.Take(ctx, client, c.AdminAddr, c.Lines)
	if err != nil {
		return err
	}
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		after, err := top.Take(ctx, client, c.AdminAddr, c.Lines)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := c.show(out, top.Between(before, after, c.Lines)); err != nil || c.Once {
			return err
		}
		before = after
	}
}

func (c *topCmd) show(out io.Writer, view *top.View) error {
	if c.JSON {
		return json.NewEncoder(out).Encode(view)
	}
	if isTerminal(out) && !c.Once {
		fmt.Fprint(out, clear)
	}
	fmt.Fprintf(out, "ratelimitd at %s, %s\n\n", c.AdminAddr, view.At.Format(time.TimeOnly))
	return view.Show(out)
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
