package config

import (
	"fmt"
	"io"
	"os"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
)

// The kinds of files, as a Validation calls them.
const (
	ofConfig = "a file of --config"
	ofEnvoy  = "a file of --envoy-config-dir"
	ofAuth   = "a file of --auth-file"
)

// A Validation checks files as Read reads them, and prints what is wrong with
// them. It is for one goroutine.
type Validation struct {
	Lookup func(string) (string, bool) // the environment, as os.LookupEnv
	// Check returns what else keeps a daemon of this Config from starting.
	Check  func(*Config) error
	Stdout io.Writer // receives which files can be used
	Stderr io.Writer // receives what is wrong with the others, and warnings

	envoy  *envoy.Reader // one for all files, because no two have one domain
	failed bool
}

// Run checks files, and the *.yaml files in directories and below. A file that has
// a domain is one of Envoy's; one that has clients is one of --auth-file; any other is
// one of --config. It reports whether
// all can be used.
func (v *Validation) Run(names []string) bool {
	v.failed = false
	for _, name := range names {
		files, err := filesOf(name)
		if err != nil {
			v.fail(err)
		}
		for _, f := range files {
			switch {
			case f.isEnvoy():
				v.envoyFile(f)
			case f.has(auth.Key):
				_, err := auth.Parse(f.name, f.data)
				v.print(f.name, ofAuth, nil, err)
			default:
				v.configFile(f)
			}
		}
	}
	return !v.failed
}

// filesOf returns the files that name stands for.
func filesOf(name string) ([]sourceFile, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		files, err := readDir(name)
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("%s: no *.yaml file is in it", name)
		}
		return files, err
	}
	data, err := readBounded(name, maxFileBytes)
	if err != nil {
		return nil, err
	}
	return []sourceFile{{name, data}}, nil
}

func (v *Validation) configFile(f sourceFile) {
	line := flags.Source{"config": {Text: f.name, Name: "--config"}}
	c, policies, err := Read(line, v.Lookup)
	if err == nil {
		err = v.Check(c)
	}
	v.print(f.name, ofConfig, policies.Warnings, err)
}

func (v *Validation) envoyFile(f sourceFile) {
	if v.envoy == nil {
		c, err := readSettingsOf(v.Lookup)
		if err == nil {
			err = v.Check(c)
		}
		if err != nil { // of the environment, and not of f
			v.fail(err)
		}
		v.envoy = c.envoyReader()
	}
	v.envoy.Warnings = nil
	err := f.readEnvoy(v.envoy)
	v.print(f.name, ofEnvoy, v.envoy.Warnings, err)
}

func (v *Validation) fail(err error) {
	v.failed = true
	fmt.Fprintln(v.Stderr, err)
}

// print prints what became of a file of some kind.
func (v *Validation) print(name, kind string, warnings []string, err error) {
	for _, w := range warnings {
		fmt.Fprintln(v.Stderr, "warning:", w)
	}
	if err != nil {
		v.fail(err)
		fmt.Fprintf(v.Stderr, "%s: refused, as %s\n", name, kind)
		return
	}
	fmt.Fprintf(v.Stdout, "%s: ok, as %s\n", name, kind)
}
