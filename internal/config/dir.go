package config

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

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
