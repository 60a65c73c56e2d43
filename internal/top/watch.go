package top

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/connect"
)

// A Watch shows a daemon again and again.
type Watch struct {
	Addr     string // of the daemon's admin port
	Link     connect.Link
	Interval time.Duration
	Lines    int  // the most of each kind
	Once     bool // for one interval alone
	JSON     bool
}

// clearScreen moves a terminal's cursor to its top left, and clears what is below.
const clearScreen = "\x1b[H\x1b[J"

// Run shows the daemon on out until ctx ends.
func (w *Watch) Run(ctx context.Context, out io.Writer) error {
	port := &Port{
		Client: &http.Client{Timeout: max(w.Interval, 5*time.Second), Transport: w.Link.HTTP(http.DefaultTransport.(*http.Transport).Clone())},
		Link:   w.Link,
		Addr:   w.Addr,
	}
	defer port.Client.CloseIdleConnections()
	before, err := port.Take(ctx, w.Lines)
	if err != nil {
		return err
	}
	tick := time.NewTicker(w.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		after, err := port.Take(ctx, w.Lines)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := w.show(out, Between(before, after, w.Lines)); err != nil || w.Once {
			return err
		}
		before = after
	}
}

func (w *Watch) show(out io.Writer, view *View) error {
	if w.JSON {
		return json.NewEncoder(out).Encode(view)
	}
	if isTerminal(out) && !w.Once {
		fmt.Fprint(out, clearScreen)
	}
	fmt.Fprintf(out, "ratelimitd at %s, %s\n\n", w.Addr, view.At.Format(time.TimeOnly))
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
