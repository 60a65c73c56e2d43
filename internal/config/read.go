package config

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
)

// Read reads all settings and, from the files that they name, the policies. line
// is what the command line sets, and lookup knows the environment, as
// os.LookupEnv does. The error is everything that is wrong.
func Read(line flags.Source, lookup func(string) (string, bool)) (*Config, *Policies, error) {
	c, f, wrong := readSettings(line, lookup)
	p, policyErrors := c.readPolicies(f)
	wrong = append(append(wrong, f.err()), policyErrors...)
	return c, p, errors.Join(wrong...)
}

// readSettingsOf returns the settings of the environment.
func readSettingsOf(lookup func(string) (string, bool)) (*Config, error) {
	c, f, wrong := readSettings(nil, lookup)
	return c, errors.Join(append(wrong, f.err())...)
}

// readSettings also returns the file of --config, which is nil if there is none, and what
// is wrong beside what that keeps.
func readSettings(line flags.Source, lookup func(string) (string, bool)) (c *Config, f *file, wrong []error) {
	c = Default()
	c.flags = c.Flags()
	c.sources = sources{line: line, lookup: lookup}
	environment := c.flags.Environment(lookup)
	c.flags.Apply(line, environment) // says which file there is
	var fromFile, fromEnvoy flags.Source
	if c.File != "" {
		var err error
		if f, err = readFile(c.nameOf("config"), c.File); err != nil {
			wrong = append(wrong, err)
		} else {
			fromFile = f.flags
		}
	}
	if isOfEnvoy(lookup) {
		variables := readEnvoyVariables(lookup, line, environment, fromFile)
		c.sources.isEnvoy, c.sources.ignored = true, variables.ignored
		fromEnvoy = variables.flags
		wrong = append(wrong, variables.wrong...)
	}
	wrong = append(wrong, c.flags.Apply(line, environment, fromFile, fromEnvoy)...)
	return c, f, append(wrong, c.check()...)
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
	for _, variable := range c.sources.ignored {
		p.Warnings = append(p.Warnings, "the environment variable "+variable+" has no effect here")
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

// Reload reads the files again. before is what is in force. What it returns goes
// by the settings that the daemon was started with: Restart has the keys of
// others. The error says why the files cannot be used; the version tells them
// from others all the same.
func (c *Config) Reload(before *Policies) (*Policies, error) {
	again, f, wrong := readSettings(c.sources.line, c.sources.lookup)
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
