package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// A file is what the file of --config holds: namespaces, and flags under their
// names with _ for -.
type file struct {
	name       string
	yaml       *yamlfile.File
	data       []byte
	namespaces yamlfile.Node
	flags      flags.Source
	secret     map[int]bool // the lines that have a password
}

// readFile reads the file of --config. flag is what messages call --config.
func readFile(flag, name string) (*file, error) {
	data, err := readBounded(name, maxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return parseFile(name, data), nil
}

// parseFile reads data, and notes in the file what is wrong with it.
func parseFile(name string, data []byte) *file {
	parsed, root := yamlfile.Parse(name, data)
	f := &file{name: name, yaml: parsed, data: data, flags: flags.Source{}, secret: map[int]bool{}}
	if parsed.Err() == nil && root.IsNull() {
		root.Problem(`nothing is in this file; to configure nothing, write "namespaces: {}"`)
	}
	scratch := Default().Flags() // takes values that others override
	keys := map[string]func(yamlfile.Node){"namespaces": func(n yamlfile.Node) { f.namespaces = n }}
	for i := range scratch.Flags {
		if flag := &scratch.Flags[i]; flag.Name != "config" {
			keys[keyOf(flag.Name)] = func(n yamlfile.Node) { f.setting(flag, n) }
		}
	}
	root.Mapping(keys)
	scratch.Check(f.flags)
	return f
}

// setting reads the value of a flag.
func (f *file) setting(flag *flags.Flag, n yamlfile.Node) {
	if flag.Secret {
		f.secret[n.Line()] = true
	}
	var text string
	if flag.IsList() {
		text = strings.Join(n.Texts(), flag.Separator())
	} else {
		text = n.Text()
	}
	f.flags[flag.Name] = flags.Setting{Text: text, Name: keyOf(flag.Name), Note: func(problem string) {
		n.Problem("%s", problem)
	}}
}

// keyOf returns the key of a flag.
func keyOf(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// mayHoldPassword matches a line that may hold a password.
var mayHoldPassword = regexp.MustCompile(`password|@`)

// err returns what is wrong with the file, without the text of lines that may
// hold a password.
func (f *file) err() error {
	if f == nil {
		return nil
	}
	err := f.yaml.Err()
	var problems yamlfile.Problems
	if !errors.As(err, &problems) {
		return err
	}
	for i := range problems {
		if p := &problems[i]; f.secret[p.Line] || mayHoldPassword.MatchString(p.Source) {
			p.Source = ""
		}
	}
	return problems
}
