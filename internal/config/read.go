package config

import (
	"errors"
	"path/filepath"
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// sources are what Read reads, in order of precedence.
type sources struct {
	line   flags.Source                // the command line
	lookup func(string) (string, bool) // the environment
	file   *file                       // of --config; nil: none
	envoy  *envoyVariables             // nil: they do not count
}

// Read reads all settings and, from the files that they name, the policies. line
// is what the command line sets, and lookup knows the environment, as
// os.LookupEnv does. The error is everything that is wrong.
func Read(line flags.Source, lookup func(string) (string, bool)) (*Config, *Policies, error) {
	c, wrong := readSettings(line, lookup)
	p, policyErrors := c.readPolicies(c.sources.file)
	wrong = append(append(wrong, c.sources.file.err()), policyErrors...)
	return c, p, errors.Join(wrong...)
}

// readSettingsOf returns the settings of the environment.
func readSettingsOf(lookup func(string) (string, bool)) (*Config, error) {
	c, wrong := readSettings(nil, lookup)
	return c, errors.Join(append(wrong, c.sources.file.err())...)
}

// readSettings returns what is wrong but for what the file of --config keeps.
func readSettings(line flags.Source, lookup func(string) (string, bool)) (*Config, []error) {
	c := Default()
	c.flags = c.Flags()
	c.sources = sources{line: line, lookup: lookup}
	environment := c.flags.Environment(lookup)
	c.flags.Apply(line, environment) // says which file there is
	var wrong []error
	var fromFile, fromEnvoy flags.Source
	if c.File != "" {
		f, err := readFile(c.nameOf("config"), c.File)
		if err != nil {
			wrong = append(wrong, err)
		} else {
			c.sources.file, fromFile = f, f.flags
		}
	}
	if isOfEnvoy(lookup) {
		c.sources.envoy = readEnvoyVariables(lookup, line, environment, fromFile)
		fromEnvoy = c.sources.envoy.flags
		wrong = append(wrong, c.sources.envoy.wrong...)
	}
	wrong = append(wrong, c.flags.Apply(line, environment, fromFile, fromEnvoy)...)
	return c, append(wrong, c.check()...)
}

// nameOf returns what messages call a flag: --config, or what else set it.
func (c *Config) nameOf(flag string) string {
	setting, ok := c.flags.Setting(flag)
	if !ok {
		return "--" + flag
	}
	return setting.Name
}

// WatchedDirs lists the directories whose changes may change the policies.
// There are none if no file configures anything.
func (c *Config) WatchedDirs() []string {
	var dirs []string
	if c.File != "" {
		dirs = append(dirs, filepath.Dir(c.File))
	}
	if c.Trust.AuthFile != "" {
		dirs = append(dirs, filepath.Dir(c.Trust.AuthFile))
	}
	if dir := c.Envoy.ConfigDir; dir != "" {
		dirs = append(dirs, dir, filepath.Dir(dir))
		if root, _ := c.sources.lookup("RUNTIME_ROOT"); root != "" {
			dirs = append(dirs, filepath.Dir(filepath.Clean(root))) // where a link to another version is put
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
