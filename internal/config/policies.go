package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
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

// readPolicies reads the namespaces of f, which may be nil, and Envoy's files. It
// goes by the settings of c. The errors are what is wrong beside what f keeps.
func (c *Config) readPolicies(f *file) (*Policies, []error) {
	p := &Policies{}
	version := sha256.New()
	var wrong []error
	if f != nil {
		p.Namespaces = policy.Read(f.namespaces, c.Store.MaxLogCount)
		p.Text = f.namespaces.String()
		version.Write(f.data)
	}
	if c.sources.envoy != nil {
		for _, variable := range c.sources.envoy.ignored {
			p.Warnings = append(p.Warnings, "the environment variable "+variable+" has no effect here")
		}
	}
	clients, err := c.readClients(p)
	if err != nil {
		wrong = append(wrong, err)
	}
	if c.Trust.AuthFile != "" {
		fmt.Fprintf(version, "clients %d ", len(clients))
		version.Write(clients)
	}
	if c.Envoy.ConfigDir != "" {
		files, err := readDir(c.Envoy.ConfigDir)
		if err != nil {
			wrong = append(wrong, c.fileError("envoy-config-dir", err))
		} else if len(files) == 0 {
			p.Warnings = append(p.Warnings, "there is no *.yaml file in "+c.Envoy.ConfigDir)
		}
		reader := c.envoyReader()
		for _, f := range files {
			fmt.Fprintf(version, "%s %d ", f.name, len(f.data))
			version.Write(f.data)
			if err := f.readEnvoy(reader); err != nil {
				wrong = append(wrong, err)
			}
		}
		p.Domains = reader.Config
		p.Warnings = append(p.Warnings, reader.Warnings...)
	}
	if c.XDS.IsOn() {
		p.Domains = envoy.Awaited
	}
	p.files = version.Sum(nil)
	c.setVersion(p)
	return p, wrong
}

// FlagError says what is wrong with what a flag names, if err is not nil.
func (c *Config) FlagError(flag string, err error) error {
	if err == nil {
		return nil
	}
	return c.fileError(flag, err)
}

// fileError says that the file or directory of a flag cannot be read.
func (c *Config) fileError(flag string, err error) error {
	return fmt.Errorf("%s: %w", c.nameOf(flag), err)
}

// envoyReader returns a reader of Envoy's files that goes by the settings of c.
func (c *Config) envoyReader() *envoy.Reader {
	return envoy.NewReader(envoy.Options{Merge: c.Envoy.MergeDomains, MaxLogCount: c.Store.MaxLogCount})
}

// A sourceFile is a YAML file as it was read.
type sourceFile struct {
	name string
	data []byte
}

// readEnvoy reads f, which is one of Envoy's, into r. The error is all that is
// wrong with it.
func (f sourceFile) readEnvoy(r *envoy.Reader) error {
	parsed, root := yamlfile.Parse(f.name, f.data)
	r.Read(f.name, root)
	return parsed.Err()
}

// isEnvoy reports whether f looks like one of Envoy's files and not like one of
// --config.
func (f sourceFile) isEnvoy() bool { return f.has("domain") || f.has("descriptors") }

// has reports whether f is a mapping with that key.
func (f sourceFile) has(key string) bool {
	_, root := yamlfile.Parse(f.name, f.data)
	return root.Has(key)
}

// PolicyFiles lists the files that configure policies, as far as they can be read.
func (c *Config) PolicyFiles() []string {
	var names []string
	if c.File != "" {
		names = append(names, c.File)
	}
	if c.Envoy.ConfigDir != "" {
		_ = walkDir(c.Envoy.ConfigDir, func(path, _ string) error {
			names = append(names, path)
			return nil
		})
	}
	return names
}

// readDir reads the *.yaml and *.yml files in dir and below, in the order of
// their names. It skips names that begin with a dot, where Kubernetes keeps its
// own.
func readDir(dir string) ([]sourceFile, error) {
	var files []sourceFile
	bytes := 0
	err := walkDir(dir, func(path, shown string) error {
		if len(files) == maxDirFiles {
			return fmt.Errorf("%s has more than %d *.yaml files; remove some", dir, maxDirFiles)
		}
		data, err := readBounded(path, maxFileBytes)
		if bytes += len(data); bytes > maxDirBytes {
			return fmt.Errorf("the *.yaml files in %s have more than %d bytes; remove some", dir, maxDirBytes)
		}
		files = append(files, sourceFile{shown, data})
		return err
	})
	return files, err
}

// walkDir calls f for each file that readDir reads, with its path and how messages
// show it.
func walkDir(dir string, f func(path, shown string) error) error {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		switch {
		case path != root && strings.HasPrefix(name, "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(name)):
			return nil
		}
		return f(path, filepath.Join(dir, strings.TrimPrefix(path, root)))
	})
}

// Reload reads the files again. before is what is in force. What it returns goes
// by the settings that the daemon was started with: Restart has the keys of
// others. The error says why the files cannot be used; the version tells them
// from others all the same.
func (c *Config) Reload(before *Policies) (*Policies, error) {
	again, wrong := readSettings(c.sources.line, c.sources.lookup)
	f := again.sources.file
	p, policyErrors := c.readPolicies(f)
	if c.XDS.IsOn() {
		p.Domains, p.received = before.Domains, before.received
		c.setVersion(p)
	}
	err := errors.Join(append(append(wrong, f.err()), policyErrors...)...)
	switch {
	case err != nil:
		return p, err
	case f != nil && f.namespaces.IsNull() && len(before.Namespaces.Namespaces()) > 0:
		return p, fmt.Errorf(`%s has no namespaces, and some are in force; to configure none, write "namespaces: {}"`, c.File)
	}
	p.Removed = removed(before, p)
	for _, flag := range c.flags.Flags {
		if flag.Value.String() != again.flags.Lookup(flag.Name).Value.String() {
			p.Restart = append(p.Restart, keyOf(flag.Name))
		}
	}
	return p, nil
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
