package console

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/reload"
)

// Options say what the console shows. All but Trials are required.
type Options struct {
	Core        *decide.Core
	Book        *account.Book
	Latency     *histogram.Vec // of calls
	Metrics     prometheus.Gatherer
	Store       string // its name
	OnError     policy.OnError
	MaxLogCount int64
	// Configuration returns what is in force.
	Configuration func() Configuration
	// Counter returns what the core is asked of a descriptor of Envoy, to look only, and the
	// limit that it is held to.
	Counter func(domain string, entries []string) (decide.Request, envoy.Match, error)
	Trials  Trials // nil: nothing can be tried
	Logger  *slog.Logger
}

// A Configuration is what is in force.
type Configuration struct {
	Policies *policy.Config
	Text     string // of Policies
	Domains  []string
	Reload   *reload.State // nil: nothing can change it
}
