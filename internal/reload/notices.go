package reload

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
)

const (
	// quiet is how long the files must not change before they are read. Whoever
	// changes them may not be done yet.
	quiet = 100 * time.Millisecond
	// lookEvery is how often the files are read even without a notice of a change.
	// Not every file system sends notices.
	lookEvery = 10 * time.Second
)

// Notices notice when files change. All fields are required.
type Notices struct {
	Of     string   // what the log calls the files: "the configuration"
	Dirs   []string // the directories to watch; they may be removed and made again
	Logger *slog.Logger
}

// Run calls look when the files may have changed, until ctx ends. A signal on told
// makes it call look(true) at once. look returns after how long to look again, if that
// is not 0.
func (n Notices) Run(ctx context.Context, told <-chan os.Signal, look func(told bool) (again time.Duration)) {
	w := newNotices(n)
	defer w.close()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	again := time.NewTimer(lookEvery)
	defer again.Stop()
	lookNow := func(told bool) {
		w.watch()
		if wait := look(told); wait > 0 {
			again.Reset(wait)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-told:
			lookNow(true)
		case event := <-w.events():
			if w.concerns(event) {
				w.watch() // a directory may be another now
				again.Reset(quiet)
			}
		case err := <-w.errors(): // notices may be lost; the next tick makes up for it
			w.failed(err)
		case <-again.C:
			lookNow(false)
		case <-tick.C: // even if the files keep changing
			lookNow(false)
		}
	}
}

// notices are those of the system about changes in directories. Where a directory is
// missing they are about the nearest one above it, so that they tell when it is made
// again. Without the system's help there are none.
type notices struct {
	of     string // what the log calls the files
	dirs   []string
	logger *slog.Logger
	gate   lograte.Gate

	watcher *fsnotify.Watcher      // nil without the system's help
	watched map[string]os.FileInfo // the directories that are watched, as they were then
	told    map[string]bool        // those of which the log says that they cannot be watched
}

func newNotices(o Notices) *notices {
	n := &notices{of: o.Of, logger: o.Logger, watched: map[string]os.FileInfo{}, told: map[string]bool{}}
	for _, dir := range o.Dirs {
		if absolute, err := filepath.Abs(dir); err == nil {
			dir = absolute
		}
		n.dirs = append(n.dirs, filepath.Clean(dir))
	}
	var err error
	if n.watcher, err = fsnotify.NewWatcher(); err != nil {
		n.logger.Warn("changes of files will be seen late", "of", n.of, "error", err, "after_at_most", lookEvery.String())
	}
	n.watch()
	return n
}

// events returns the channel of changes, which is nil if there are none.
func (n *notices) events() <-chan fsnotify.Event {
	if n.watcher == nil {
		return nil
	}
	return n.watcher.Events
}

func (n *notices) errors() <-chan error {
	if n.watcher == nil {
		return nil
	}
	return n.watcher.Errors
}

func (n *notices) close() {
	if n.watcher != nil {
		_ = n.watcher.Close()
	}
}

func (n *notices) failed(err error) {
	if times := n.gate.Pass(time.Now()); times > 0 {
		n.logger.Warn("watching files", "of", n.of, "error", err, "times", times)
	}
}

// watch watches each directory and the one above it, which tells that it is replaced.
// If one is missing, it also watches the nearest one above that there is. A directory
// that is another than it was is watched again.
func (n *notices) watch() {
	if n.watcher == nil {
		return
	}
	var wanted []string
	for _, dir := range n.dirs {
		at := dir
		wanted = append(wanted, at)
		for range 100 {
			at = filepath.Dir(at)
			wanted = append(wanted, at)
			if _, err := os.Stat(at); err == nil {
				break
			}
		}
	}
	for at := range n.watched {
		if !slices.Contains(wanted, at) {
			delete(n.watched, at)
			_ = n.watcher.Remove(at)
		}
	}
	for _, at := range slices.Backward(wanted) { // from above, so that nothing is made unseen in between
		n.watchOne(at)
	}
}

// watchOne watches a directory, if it is there.
func (n *notices) watchOne(at string) {
	was := n.watched[at]
	is, err := os.Stat(at)
	if err == nil && was != nil && os.SameFile(is, was) {
		return
	}
	if was != nil {
		delete(n.watched, at)
		_ = n.watcher.Remove(at) // it may be gone
	}
	if err == nil {
		err = n.watcher.Add(at)
	}
	switch {
	case err == nil:
		n.watched[at] = is
		delete(n.told, at)
	case slices.Contains(n.dirs, at) && !n.told[at] && !errors.Is(err, fs.ErrNotExist):
		n.told[at] = true
		n.logger.Warn("changes of files will be seen late", "of", n.of, "directory", at, "error", err, "after_at_most", lookEvery.String())
	}
}

// concerns reports whether an event may be about the configuration: it is in one of
// the directories, or it is about one of them or one above.
func (n *notices) concerns(e fsnotify.Event) bool {
	for _, dir := range n.dirs {
		if filepath.Dir(e.Name) == dir || e.Name == dir || strings.HasPrefix(dir, strings.TrimSuffix(e.Name, "/")+"/") && !e.Has(fsnotify.Write) {
			return true
		}
	}
	return false
}
