package server

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	defaultHotKeys = 10 // of each list, that /hot-keys shows
	maxLevelBytes  = 16 // of what is PUT to /loglevel
)

// adminHandler returns the handler of the admin port.
func (s *Server) adminHandler(registry *prometheus.Registry, level *slog.LevelVar, flags map[string]string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `ratelimitd: admin

/hot-keys        who asks most and who is denied most, by namespace; ?n=20 for more
/configuration   the configuration in force: flags, policies and their version
/loglevel        GET the level; PUT debug, info, warn or error to set it
/metrics         Prometheus metrics, as on the HTTP port
/debug/pprof/    Go's profiles
`)
	})
	mux.HandleFunc("GET /hot-keys", s.showHotKeys)
	mux.Handle("GET /metrics", s.metricsHandler(registry))
	mux.HandleFunc("GET /configuration", func(w http.ResponseWriter, _ *http.Request) {
		config := s.config.Load()
		writeJSON(w, configurationInForce{flags, config.Version, config.Text})
	})
	mux.HandleFunc("GET /loglevel", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, strings.ToLower(level.Level().String()))
	})
	mux.HandleFunc("PUT /loglevel", func(w http.ResponseWriter, r *http.Request) { s.setLogLevel(w, r, level) })
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	// Not pprof.Cmdline: it shows passwords that were given as flags.
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// A configurationInForce is what /configuration shows.
type configurationInForce struct {
	Flags    map[string]string `json:"flags"`    // as the daemon was started
	Version  string            `json:"version"`  // of the files, as the log has it; "" if there are none
	Policies string            `json:"policies"` // the namespaces of the file, as YAML
}

func (s *Server) showHotKeys(w http.ResponseWriter, r *http.Request) {
	n := defaultHotKeys
	if given := r.URL.Query().Get("n"); given != "" {
		var err error
		if n, err = strconv.Atoi(given); err != nil || n < 1 {
			http.Error(w, fmt.Sprintf("n: %.32q: give a number above 0, such as %d", given, defaultHotKeys), http.StatusBadRequest)
			return
		}
	}
	writeJSON(w, s.hotKeys.Top(n))
}

func (s *Server) setLogLevel(w http.ResponseWriter, r *http.Request, level *slog.LevelVar) {
	given, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLevelBytes))
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
	level.Set(to)
	s.logger.Log(r.Context(), max(to, slog.LevelInfo), "the log level was set", "level", name)
	fmt.Fprintln(w, name)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
