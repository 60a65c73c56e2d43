package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
)

// Policies are what files and an xDS server configure: the part of the configuration that may
// change while the daemon runs. Nothing changes them once they are read.
type Policies struct {
	Namespaces *policy.Config  // of the file of --config; nil: none
	Domains    *envoy.Config   // of Envoy's files, or of an xDS server; nil: none
	Clients    *auth.Directory // who may ask; nil: everybody
	Text       string          // Namespaces as people are shown them
	Version    string          // tells the files from others; "": there are none

	Warnings []string // what has no effect
	Removed  []string // by a reload: namespaces, policies and domains
	Restart  []string // keys whose change needs a restart

	files    []byte // the hash of the files
	received []byte // the hash of what an xDS server sent; nil: nothing
}

// setVersion sets the version of p to what tells the files, and what was received, from
// others.
func (c *Config) setVersion(p *Policies) {
	switch {
	case c.XDS.IsOn():
		sum := sha256.Sum256(slices.Concat(p.files, p.received))
		p.Version = hex.EncodeToString(sum[:6])
	case c.WatchedDirs() != nil:
		p.Version = hex.EncodeToString(p.files[:6])
	}
}

// Names lists the namespaces and the domains of p.
func (p *Policies) Names() []string {
	return slices.AppendSeq(p.Domains.Domains(), maps.Keys(p.Namespaces.Namespaces()))
}

// removed names the namespaces, policies and domains that before has and after
// does not.
func removed(before, after *Policies) []string {
	var names []string
	left := after.Namespaces.Namespaces()
	for _, name := range slices.Sorted(maps.Keys(before.Namespaces.Namespaces())) {
		if left[name] == nil {
			names = append(names, fmt.Sprintf("namespace %q", name))
			continue
		}
		for _, of := range slices.Sorted(maps.Keys(before.Namespaces.Namespace(name).Policies())) {
			if left[name].Policy(of) == nil {
				names = append(names, fmt.Sprintf("policy %q of namespace %q", of, name))
			}
		}
	}
	for _, domain := range before.Domains.Domains() {
		if !after.Domains.Knows(domain) {
			names = append(names, fmt.Sprintf("domain %q", domain))
		}
	}
	return names
}

// maxNamed is how many removed things a log line names.
const maxNamed = 10

// Log logs what an operator should know of p beside that it is in force.
func (p *Policies) Log(logger *slog.Logger) {
	for _, w := range p.Warnings {
		logger.Warn("in the configuration", "warning", w)
	}
	if n := len(p.Removed); n > 0 {
		names := strings.Join(p.Removed[:min(n, maxNamed)], ", ")
		if n > maxNamed {
			names += fmt.Sprintf(" and %d more", n-maxNamed)
		}
		logger.Warn("the new configuration removes limits that were in force", "removed", names)
	}
	for _, key := range p.Restart {
		logger.Warn("this change of the configuration needs a restart", "key", key)
	}
}
