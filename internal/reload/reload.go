// Package reload applies configuration when its files change. It notices when a
// file is written or replaced, also through a symbolic link as in Kubernetes, and
// looks when the process is told to.
package reload

import (
	"context"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
)

// Options say how to make a Watcher. All are required.
type Options struct {
	// Dirs are the directories to watch.
	Dirs []string
	// Load reads the configuration. It returns its version and a function that
	// applies it. If the version is seen, apply may be nil. If the configuration
	// cannot be used, the error says why. Then the version may be ""; otherwise the
	// same version is reported only once.
	Load func(seen string) (version string, apply func(), err error)
	// Version is the version of the configuration in force.
	Version string

	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// A Watcher applies configuration when it changes. It refuses configuration that
// cannot be used as a whole: the log says why, and the old configuration stays in
// force.
type Watcher struct {
	o       Options
	refused string // the version that was refused last, or the reason if it had no version

	applied, refusals prometheus.Counter
	successful        prometheus.Gauge
	since             prometheus.Gauge
}

// New returns a Watcher. Call Run to start it.
func New(o Options) *Watcher {
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_config_reloads_total",
		Help: "Changes of configuration, by whether it was applied, or refused because it cannot be used.",
	}, []string{"result"})
	w := &Watcher{
		o:        o,
		applied:  reloads.WithLabelValues("applied"),
		refusals: reloads.WithLabelValues("refused"),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_config_last_reload_successful",
			Help: "1 if the configuration in the files is in force; 0 if it was refused.",
		}),
		since: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration in force was applied, in seconds since the Unix epoch.",
		}),
	}
	w.successful.Set(1)
	w.since.SetToCurrentTime()
	o.Registry.MustRegister(reloads, w.successful, w.since)
	return w
}

// Run watches until ctx ends. A signal on told makes it look at once.
func (w *Watcher) Run(ctx context.Context, told <-chan os.Signal) {
	Notices{Of: "the configuration", Dirs: w.o.Dirs, Logger: w.o.Logger}.Run(ctx, told, w.look)
}

// look reads the configuration and applies it if it has changed. If the process was
// told to look, it logs the result even if there is nothing to do.
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

// refuse logs why a configuration is refused: once, and again if the process was
// told to look.
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
	w.o.Logger.Error("the configuration is refused and the old one stays in force; correct the files, and they are read again", "error", err)
}
