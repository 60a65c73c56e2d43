// Package adminapi is the front for operators: the configuration in force, hot
// keys, the log level, and profiles.
package adminapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
	"github.com/ratelimitd/ratelimitd/internal/testclock"
)

const (
	defaultHotKeys = 10 // of each list, that /hot-keys shows
	maxLevelBytes  = 16 // of what is PUT to /loglevel
)

// Options say what the admin port shows. All but TestClock are required.
type Options struct {
	Book          *account.Book
	Metrics       http.Handler
	Limits        http.Handler         // of /rlconfig
	Counter       http.Handler         // of /envoy
	ResetCounter  http.Handler         // of /envoy/reset
	Console       http.Handler         // of what is below /console/
	Configuration func() Configuration // that in force
	LogLevel      *slog.LevelVar       // the one of Logger
	Logger        *slog.Logger

	TestClock *testclock.Clock // of /test-clock, which there is not if it is nil
}

// A Configuration is what /configuration shows.
type Configuration struct {
	Flags    map[string]any `json:"flags"`    // as the daemon was started
	Version  string         `json:"version"`  // of the files, as the log has it; "" if there are none
	Policies string         `json:"policies"` // the namespaces of the file, as YAML
}

// New returns the handler of the admin port.
func New(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `ratelimitd: admin

/                the console, in a browser
/hot-keys        who asks most and who is denied most, by namespace; ?n=20 for more
/configuration   the configuration in force: flags, policies and their version
/rlconfig        the limits in force, as envoyproxy/ratelimit shows them
/envoy           what is left to a descriptor of Envoy: ?domain=edge&entry=user=alice
/envoy/reset     POST, with the same query: forget what it has taken
/loglevel        GET the level; PUT debug, info, warn or error to set it
/metrics         Prometheus metrics, as on the HTTP port
/debug/pprof/    Go's profiles
`)
	})
	mux.HandleFunc("GET /hot-keys", o.showHotKeys)
	mux.Handle("GET /metrics", o.Metrics)
	mux.Handle("GET /rlconfig", o.Limits)
	mux.Handle("GET /envoy", o.Counter)
	mux.Handle("POST /envoy/reset", o.ResetCounter)
	mux.Handle("/console/", o.Console)
	mux.HandleFunc("GET /configuration", func(w http.ResponseWriter, _ *http.Request) { web.WriteJSON(w, o.Configuration()) })
	mux.HandleFunc("GET /loglevel", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, strings.ToLower(o.LogLevel.Level().String()))
	})
	mux.HandleFunc("PUT /loglevel", o.setLogLevel)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	// Not pprof.Cmdline: it shows passwords that were given as flags.
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	if o.TestClock != nil {
		mux.Handle("GET /test-clock", o.TestClock)
		mux.Handle("POST /test-clock", o.TestClock)
	}
	return mux
}

func (o *Options) showHotKeys(w http.ResponseWriter, r *http.Request) {
	n := defaultHotKeys
	if given := r.URL.Query().Get("n"); given != "" {
		var err error
		if n, err = strconv.Atoi(given); err != nil || n < 1 {
			http.Error(w, fmt.Sprintf("n: %s: give a number above 0, such as %d", quote.Cut(given), defaultHotKeys), http.StatusBadRequest)
			return
		}
	}
	web.WriteJSON(w, o.Book.HotKeys(n))
}

func (o *Options) setLogLevel(w http.ResponseWriter, r *http.Request) {
	given, err := web.ReadBody(w, r, maxLevelBytes)
	if err != nil {
		http.Error(w, fmt.Sprintf("log level: %v; PUT debug, info, warn or error", err), http.StatusBadRequest)
		return
	}
	name := strings.ToLower(strings.TrimSpace(string(given)))
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	to, known := levels[name]
	if !known {
		http.Error(w, fmt.Sprintf("log level %q: PUT debug, info, warn or error", name), http.StatusBadRequest)
		return
	}
	o.LogLevel.Set(to)
	o.Logger.Log(r.Context(), max(to, slog.LevelInfo), "the log level was set", "level", name)
	fmt.Fprintln(w, name)
}
