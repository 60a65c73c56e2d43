package top

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
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
			if err := s.draw([]line{{text: fmt.Sprintf("ratelimitd at %s: looking for %v. q quits.", w.Addr, w.Interval)}}); err != nil {
				return err
			}
			return w.follow(ctx, port, first, s.keys, func(v *View) error { return s.draw(w.screenful(v, s)) })
		}
	}
	return w.follow(ctx, port, first, nil, func(v *View) error { return w.print(out, v) })
}

// follow calls show for each interval after the sample first.
func (w *Watch) follow(ctx context.Context, port *Port, first *Sample, keys <-chan byte, show func(*View) error) error {
	tick := time.NewTicker(w.Interval)
	defer tick.Stop()
	for before := first; ; {
		select {
		case <-ctx.Done():
			return nil
		case key, more := <-keys:
			if !more || ends(key) {
				return nil
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
		if err := show(Between(before, after, w.Lines)); err != nil || w.Once {
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
