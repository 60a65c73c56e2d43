// Package reload applies configuration when its files change. It notices when a
// file is written or replaced, also through a symbolic link as in Kubernetes, and
// looks when the process is told to.
package reload

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// settle is how long they must then have stayed the same before they are put in
	// force. Whoever writes slowly may have written what can be used by chance.
	settle = time.Second
	// patience is how long a file that somebody has open for writing holds up the
	// rest.
	patience = time.Minute
)

// Options say how to make a Watcher. All are required, but for Writing and Refused.
type Options struct {
	// Dirs are the directories to watch. They may be removed and made again. Without
	// any, there is nothing to Run: the Watcher only receives.
	Dirs []string
	// Writing returns the name of a file that somebody is writing, or "".
	Writing func() string
	// Load reads the configuration. It returns its version and a function that
	// applies it. If the version is seen, apply may be nil. If the configuration
	// cannot be used, the error says why. Then the version may be ""; otherwise the
	// same version is reported only once.
	Load func(seen string) (version string, apply func(), err error)
	// Refused is called when a configuration is refused.
	Refused func()
	// Version is the version of the configuration in force.
	Version string

	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// A Watcher applies configuration when it changes: in files, or as a source sends it. It
// refuses configuration that cannot be used as a whole: the log says why, and the old
// configuration stays in force. It is safe for concurrent use.
type Watcher struct {
	o Options

	mu       sync.Mutex // protects the following, and is held while configuration is read and applied
	version  string     // in force
	files    refusal
	received refusal

	next    string    // a version that is not in force yet, or the reason if it had none
	since   time.Time // when it was seen first
	waiting bool      // whether the log says that a file is being written

	inForce   time.Time // when the version in force was put in force
	refused   error     // the last refusal; nil: none
	refusedAt time.Time

	applied, refusals prometheus.Counter
	successful        prometheus.Gauge
	inForceSince      prometheus.Gauge
}

// A refusal is why what a source has last is not in force: its version, or the reason if
// it has no version; or "" if it is in force. What is refused again is not news.
type refusal string

// New returns a Watcher. Call Run to start it.
func New(o Options) *Watcher {
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_config_reloads_total",
		Help: "Changes of configuration, by whether it was applied, or refused because it cannot be used.",
	}, []string{"result"})
	w := &Watcher{
		o:        o,
		version:  o.Version,
		applied:  reloads.WithLabelValues("applied"),
		refusals: reloads.WithLabelValues("refused"),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_config_last_reload_successful",
			Help: "1 if the configuration in the files, or received last, is in force; 0 if it was refused.",
		}),
		inForceSince: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration in force was applied, in seconds since the Unix epoch.",
		}),
	}
	w.successful.Set(1)
	w.inForce = time.Now()
	w.inForceSince.SetToCurrentTime()
	o.Registry.MustRegister(reloads, w.successful, w.inForceSince)
	return w
}

// A State says which configuration is in force, and why a later one is not.
type State struct {
	Version string
	Since   time.Time
	// Refused is why what there is now is not in force; nil: it is.
	Refused   error
	RefusedAt time.Time
}

// State returns the state of w.
func (w *Watcher) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return State{w.version, w.inForce, w.refused, w.refusedAt}
}

// Run watches until ctx ends. A signal on told makes it look at once, and put in
// force at once what it finds.
func (w *Watcher) Run(ctx context.Context, told <-chan os.Signal) {
	Notices{Of: "the configuration", Dirs: w.o.Dirs, Logger: w.o.Logger}.Run(ctx, told, w.look)
}

// look reads the configuration and applies it if it has changed and is not changing
// any more. If it may be, look returns after how long to look again. If the process
// was told to look, it does not wait, and it logs the result even if there is nothing
// to do.
func (w *Watcher) look(told bool) (wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	version, apply, err := w.load(w.o.Load)
	if err == nil && version == w.version {
		w.files, w.next = "", ""
		w.judge()
		if told {
			w.o.Logger.Info("the configuration has not changed", "version", version)
		}
		return 0
	}
	if !told {
		if wait := w.unsettled(version, err); wait > 0 {
			return wait
		}
	}
	w.next, w.waiting = "", false
	if err != nil {
		w.refuse(&w.files, version, err, told)
		return 0
	}
	w.files = ""
	w.apply(version, apply)
	return 0
}

// Receive applies what a source has sent, unless it is in force already. load is as
// Options.Load. The error says why it is refused.
func (w *Watcher) Receive(load func(seen string) (version string, apply func(), err error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	version, apply, err := w.load(load)
	switch {
	case err != nil:
		w.refuse(&w.received, version, err, false)
		return err
	case version == w.version:
		w.received = ""
		w.judge()
	default:
		w.received = ""
		w.apply(version, apply)
	}
	return nil
}

// apply puts a configuration in force.
func (w *Watcher) apply(version string, apply func()) {
	apply()
	w.version, w.inForce = version, time.Now()
	w.judge()
	w.applied.Inc()
	w.inForceSince.SetToCurrentTime()
	w.o.Logger.Info("the configuration is in force", "version", version)
}

// judge sets the metric that says whether all that there is is in force.
func (w *Watcher) judge() {
	if w.files == "" && w.received == "" {
		w.successful.Set(1)
		w.refused = nil
	} else {
		w.successful.Set(0)
	}
}

// load reads a configuration. One that makes this panic is refused as any other that
// cannot be used.
func (w *Watcher) load(load func(string) (string, func(), error)) (version string, apply func(), err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reading the configuration panicked; please report this defect: %v\n%s", p, debug.Stack())
		}
	}()
	return load(w.version)
}

// unsettled returns how long to wait before what was read can be put in force, or is
// refused.
func (w *Watcher) unsettled(version string, err error) time.Duration {
	if version == "" && err != nil {
		version = err.Error()
	}
	if version == string(w.files) {
		return 0
	}
	now := time.Now()
	if version != w.next {
		w.next, w.since = version, now
	}
	if same := now.Sub(w.since); same < settle {
		return settle - same
	}
	if w.o.Writing == nil || now.Sub(w.since) > patience {
		return 0
	}
	name := w.o.Writing()
	if name != "" && !w.waiting {
		w.waiting = true
		w.o.Logger.Info("the configuration has changed, but somebody has a file open for writing; waiting until it is closed, or for SIGHUP", "file", name, "at_most", patience.String())
	}
	if name == "" {
		return 0
	}
	return settle
}

// refuse logs why a configuration is refused: once, and again if the process was
// told to look.
func (w *Watcher) refuse(why *refusal, version string, err error, told bool) {
	if version == "" {
		version = err.Error()
	}
	if version == string(*why) && !told {
		return
	}
	*why = refusal(version)
	w.refused, w.refusedAt = err, time.Now()
	w.refusals.Inc()
	if w.o.Refused != nil {
		w.o.Refused()
	}
	w.judge()
	if why == &w.received {
		w.o.Logger.Error("the configuration that was received is refused and the old one stays in force; correct it where it comes from", "error", err)
		return
	}
	w.o.Logger.Error("the configuration is refused and the old one stays in force; correct the files, and they are read again", "error", err)
}
