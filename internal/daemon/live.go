package daemon

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/config/xds"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/server"
)

// A live is what is in force of the configuration that may change while the daemon runs.
// Files and the xDS server change it, one at a time, from before there is a server.
type live struct {
	config *config.Config
	logger *slog.Logger

	mu       sync.Mutex // protects the following
	policies *config.Policies
	server   *server.Server // nil: there is none yet
	favour   func(*config.Policies)
}

// inForce returns what is in force.
func (l *live) inForce() *config.Policies {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.policies
}

// serve has s serve what comes from now on, and what has come since made was in force,
// which s was made with. favour is what the stores have to know of it.
func (l *live) serve(s *server.Server, made *config.Policies, favour func(*config.Policies)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server, l.favour = s, favour
	if l.policies != made {
		l.put()
	}
}

// put puts the policies in force, if there is a server. l.mu is held.
func (l *live) put() {
	if l.server != nil {
		l.favour(l.policies)
		l.server.SetConfig(server.ConfigOf(l.policies))
	}
}

// change puts p in force.
func (l *live) change(p *config.Policies) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.policies = p
	l.put()
	p.Log(l.logger)
}

// refuse counts a configuration that cannot be put in force.
func (l *live) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server != nil {
		l.server.RefuseConfig()
	}
}

// follow follows, until ctx ends, all that may change the configuration. It is false if
// ctx ends before there is any.
func (l *live) follow(ctx context.Context, watching *sync.WaitGroup, o *server.Options) bool {
	dirs, sent := l.config.WatchedDirs(), l.config.XDS.IsOn()
	if dirs == nil && !sent {
		return true
	}
	if dirs != nil {
		l.logger.Info("the configuration is in force", "version", l.policies.Version)
	}
	w := reload.New(reload.Options{
		Dirs: dirs, Writing: func() string { return reload.Writing(l.config.PolicyFiles()...) },
		Load: l.load(func() (*config.Policies, error) { return l.config.Reload(l.inForce()) }), Version: l.policies.Version,
		Refused: l.refuse, Logger: l.logger, Registry: o.Registry,
	})
	o.Reload = w.State
	if dirs != nil {
		told, stop := hangups()
		context.AfterFunc(ctx, stop)
		watching.Go(func() { w.Run(ctx, told) })
	}
	if !sent {
		return true
	}
	client := l.client(w, o)
	client.Restore()
	watching.Go(func() { client.Run(ctx) })
	select {
	case <-client.First():
		return true
	default:
	}
	if l.config.XDS.StartUnconfigured {
		l.logger.Warn("no limits have come from the xDS server yet; until they have, Envoy is answered UNAVAILABLE", "server", l.config.XDS.Server)
		return true
	}
	l.logger.Info("waiting for limits from the xDS server before listening; see --xds-start-unconfigured and --xds-cache-file", "server", l.config.XDS.Server)
	select {
	case <-client.First():
		return true
	case <-ctx.Done():
		return false
	}
}

// load returns what a reload.Watcher puts in force what read returns by.
func (l *live) load(read func() (*config.Policies, error)) func(string) (string, func(), error) {
	return func(seen string) (string, func(), error) {
		next, err := read()
		if err != nil || next.Version == seen {
			return next.Version, nil, err
		}
		return next.Version, func() { l.change(next) }, nil
	}
}

// client returns the client of the xDS server, which has w put in force what comes.
func (l *live) client(w *reload.Watcher, o *server.Options) *xds.Client {
	x := &l.config.XDS
	options := xds.Options{
		Server: x.Server, NodeID: x.NodeID,
		MaxMessageBytes: x.MaxMessageBytes, Backoff: x.Backoff, MaxBackoff: x.MaxBackoff, CacheFile: x.CacheFile,
		Take: func(resources [][]byte) error {
			return w.Receive(l.load(func() (*config.Policies, error) { return l.config.Receive(l.inForce(), resources) }))
		},
		Logger: l.logger, Registry: o.Registry, Panics: o.Panics,
	}
	options.Metadata, options.Headers = x.Pairs()
	if x.TLS {
		options.TLS = &xds.TLS{CAFile: x.CAFile, CertFile: x.CertFile, KeyFile: x.KeyFile, ServerName: x.ServerName}
	}
	return xds.New(options)
}

// hangups returns a channel of SIGHUP, and what ends it.
func hangups() (<-chan os.Signal, func()) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGHUP)
	return told, func() { signal.Stop(told) }
}
