package reload

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long the files must not change before they are read. Whoever
	// changes them may not be done yet.
	quiet = 100 * time.Millisecond
	// lookEvery is how often the files are read even without a notice of a change.
	// Not every file system sends notices, and none is sent when a link further up
	// in the path is replaced.
	lookEvery = 10 * time.Second
)

// Notices notice when files change. All fields are required.
type Notices struct {
	Of     string   // what the log calls the files: "the configuration"
	Dirs   []string // the directories to watch
	Logger *slog.Logger
}

// Run calls look when the files may have changed, until ctx ends. A signal on told
// makes it call look(true) at once.
func (n Notices) Run(ctx context.Context, told <-chan os.Signal, look func(told bool)) {
	events, failures, stop := n.watch()
	defer stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	settled := time.NewTimer(lookEvery)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-told:
			look(true)
		case <-events:
			settled.Reset(quiet)
		case err := <-failures: // notices may be lost; the next tick makes up for it
			n.Logger.Warn("watching files", "of", n.Of, "error", err)
		case <-settled.C:
			look(false)
		case <-tick.C: // even if the files keep changing
			look(false)
		}
	}
}

// watch returns channels of changes and of errors, and a function that ends the
// watching. If the system cannot watch a directory, Run still looks at the files
// every lookEvery.
func (n Notices) watch() (<-chan fsnotify.Event, <-chan error, func()) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		n.Logger.Warn("changes of files will be seen late", "of", n.Of, "error", err, "after_at_most", lookEvery.String())
		return nil, nil, func() {}
	}
	for _, dir := range n.Dirs {
		if err := watcher.Add(dir); err != nil {
			n.Logger.Warn("changes of files will be seen late", "of", n.Of, "directory", dir, "error", err, "after_at_most", lookEvery.String())
		}
	}
	return watcher.Events, watcher.Errors, func() { _ = watcher.Close() }
}
