// Package reload puts configuration in force when the files that hold it
// change: when they are written or replaced, also by way of a symbolic link as
// Kubernetes does it, and when the process is told to look.
package reload

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// quiet is how long nothing must have happened to the files before they are
	// read: whoever writes them may not be done.
	quiet = 100 * time.Millisecond
	// lookEvery is how often the files are read although nothing is known to
	// have happened: not every file system tells, and nobody tells of a link
	// further up that is replaced.
	lookEvery = 10 * time.Second
)

// Options say how to make a Watcher. All are required.
type Options struct {
	// Dirs are the directories whose changes may be changes of configuration.
	Dirs []string
	// Load reads the configuration and returns its version, and what puts it in
	// force. If its version is seen there is no need to go beyond that, and
	// apply may be nil. If it can not be used, the error says why, and the
	// version, if it is not "", tells it from others.
	Load func(seen string) (version string, apply func(), err error)
	// Version is that of the configuration in force.
	Version string

	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// A Watcher puts configuration in force when it changes. Configuration that can
// not be used is refused whole: the log says why, and what was in force goes on.
type Watcher struct {
	o       Options
	refused string // version of the last that was refused, or why it was

	applied, refusals prometheus.Counter
	successful        prometheus.Gauge
	since             prometheus.Gauge
}

// New returns a Watcher, which Run runs.
func New(o Options) *Watcher {
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_config_reloads_total",
		Help: "Changes of configuration, by whether it was applied, or refused as it can not be used.",
	}, []string{"result"})
	w := &Watcher{
		o:        o,
		applied:  reloads.WithLabelValues("applied"),
		refusals: reloads.WithLabelValues("refused"),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_config_last_reload_successful",
			Help: "1 if what the configuration's files hold is in force; 0 if it was refused.",
		}),
		since: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration was put in force, in seconds since the Unix epoch.",
		}),
	}
	w.successful.Set(1)
	w.since.SetToCurrentTime()
	o.Registry.MustRegister(reloads, w.successful, w.since)
	return w
}

// Run watches until ctx ends. What arrives on told has it look at once.
func (w *Watcher) Run(ctx context.Context, told <-chan os.Signal) {
	events, failures, stop := w.notices()
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
			w.look(true)
		case <-events:
			settled.Reset(quiet)
		case err := <-failures: // some notices may be lost
			w.o.Logger.Warn("watching the configuration's files", "error", err)
		case <-settled.C:
			w.look(false)
		case <-tick.C: // also where it never settles
			w.look(false)
		}
	}
}

// notices returns what tells of changes, and what ends that. Where there is no
// telling, the files are still looked at from time to time.
func (w *Watcher) notices() (<-chan fsnotify.Event, <-chan error, func()) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		w.o.Logger.Warn("changes of configuration will be seen late", "error", err, "after_at_most", lookEvery.String())
		return nil, nil, func() {}
	}
	for _, dir := range w.o.Dirs {
		if err := watcher.Add(dir); err != nil {
			w.o.Logger.Warn("changes of configuration will be seen late", "directory", dir, "error", err, "after_at_most", lookEvery.String())
		}
	}
	return watcher.Events, watcher.Errors, func() { _ = watcher.Close() }
}

// look reads the configuration and puts it in force if it has changed. If it
// was told to, it says so even if there is nothing to do.
func (w *Watcher) look(told bool) {
	version, apply, err := w.o.Load(w.o.Version)
	if err != nil {
		w.refuse(version, err, told)
		return
	}
	w.refused = ""
	w.successful.Set(1)
	if version == w.o.Version {
		if told {
			w.o.Logger.Info("the configuration has not changed", "version", version)
		}
		return
	}
	apply()
	w.o.Version = version
	w.applied.Inc()
	w.since.SetToCurrentTime()
	w.o.Logger.Info("the configuration is in force", "version", version)
}

// refuse says once why a configuration is refused, or again if it is told to.
func (w *Watcher) refuse(version string, err error, told bool) {
	if version == "" {
		version = err.Error()
	}
	if version == w.refused && !told {
		return
	}
	w.refused = version
	w.refusals.Inc()
	w.successful.Set(0)
	w.o.Logger.Error("the configuration is refused; what was in force goes on: correct it, and it is read again", "error", err)
}
