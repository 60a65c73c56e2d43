package top

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

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

// Run shows the daemon on out until ctx ends, or until somebody presses q.
func (w *Watch) Run(ctx context.Context, out io.Writer) error {
	port := &Port{
		Client: &http.Client{Timeout: max(w.Interval, 5*time.Second), Transport: w.Link.HTTP(http.DefaultTransport.(*http.Transport).Clone())},
		Link:   w.Link,
		Addr:   w.Addr,
	}
	defer port.Client.CloseIdleConnections()
	first, err := port.Take(ctx, w.Lines)
	if err != nil {
		return err
	}
	if f, ok := out.(*os.File); ok && !w.JSON && !w.Once && term.IsTerminal(int(f.Fd())) { //nolint:gosec // it is one
		if s, err := openScreen(terminalName); err == nil {
			defer s.close() // after a panic too
			// A terminal that is closed ends the program, and not before it is given back.
			ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
			defer stop()
			signal.Notify(s.resized, syscall.SIGWINCH)
			defer signal.Stop(s.resized)
			if err := s.draw([]line{{text: fmt.Sprintf("ratelimitd at %s: looking for %v. q quits.", w.Addr, w.Interval)}}); err != nil {
				return err
			}
			return w.follow(ctx, port, first, s, func(v *View) error { return s.draw(w.screenful(v, s)) })
		}
	}
	return w.follow(ctx, port, first, new(screen), func(v *View) error { return w.print(out, v) })
}

// follow calls show for each interval after the sample first, and again when s has another size.
func (w *Watch) follow(ctx context.Context, port *Port, first *Sample, s *screen, show func(*View) error) error {
	tick := time.NewTicker(w.Interval)
	defer tick.Stop()
	var shown *View
	for before := first; ; {
		select {
		case <-ctx.Done():
			return nil
		case key, more := <-s.keys:
			if !more || ends(key) {
				return nil
			}
			continue
		case <-s.resized:
			if shown == nil {
				continue
			}
			if err := show(shown); err != nil {
				return err
			}
			continue
		case <-tick.C:
		}
		after, err := port.Take(ctx, w.Lines)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		shown = Between(before, after, w.Lines)
		if err := show(shown); err != nil || w.Once {
			return err
		}
		before = after
	}
}

// title says what is shown.
func (w *Watch) title(v *View) string {
	return fmt.Sprintf("ratelimitd at %s, %s", w.Addr, v.At.Format(time.TimeOnly))
}

// print writes v for a program, or for a person who may keep it.
func (w *Watch) print(out io.Writer, v *View) error {
	if w.JSON {
		return json.NewEncoder(out).Encode(v)
	}
	fmt.Fprintf(out, "%s\n\n", w.title(v))
	return v.Show(out)
}

// screenful returns what s has room for.
func (w *Watch) screenful(v *View, s *screen) []line {
	rows, columns := s.size()
	lines := v.lines(space{rows: rows - 1, columns: columns})
	return append([]line{{text: cut(w.title(v)+"   q quits", columns)}}, lines...)
}
