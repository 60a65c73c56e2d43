package config

import (
	"github.com/ratelimitd/ratelimitd/internal/policy"
)

// Try reads a text as a file of --config, or as one of Envoy's if it has a domain, to see
// what it would do. Messages call it name. It opens no file, whatever the text names, so
// that it checks each setting alone, and not all of them together as Read does. The error
// is all that is wrong: yamlfile.Problems if they have places.
func Try(name string, text []byte, maxLogCount int64) (*Policies, error) {
	p := &Policies{}
	if f := (sourceFile{name, text}); f.isEnvoy() {
		reader := Default().envoyReader()
		err := f.readEnvoy(reader)
		p.Domains, p.Warnings = reader.Config, reader.Warnings
		return p, err
	}
	f := parseFile(name, text)
	p.Namespaces = policy.Read(f.namespaces, maxLogCount)
	return p, f.err()
}
