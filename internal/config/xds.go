package config

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

const (
	// maxXDSMessageBytes is as much as all files of --envoy-config-dir may have.
	maxXDSMessageBytes = maxDirBytes
	// maxWrongResources is of how many resources it is told what is wrong with them.
	maxWrongResources = 10
	// maxXDSBackoff is longer than anybody waits for a change of limits.
	maxXDSBackoff = time.Hour
)

// xds checks how the server is reached. Whether its files can be used is not among it:
// they may come later.
func (k *check) xds() {
	x := &k.c.XDS
	k.must(x.MaxMessageBytes > 0 && x.MaxMessageBytes <= maxXDSMessageBytes, "xds-max-message-bytes", x.MaxMessageBytes, fmt.Sprintf("1 to %d, such as %d", maxXDSMessageBytes, defaultXDS.MaxMessageBytes))
	k.must(x.Backoff > 0 && x.Backoff <= maxXDSBackoff, "xds-backoff", x.Backoff, "above 0 and at most 1h, such as 1s")
	k.must(x.MaxBackoff >= x.Backoff && x.MaxBackoff <= maxXDSBackoff, "xds-backoff-max", x.MaxBackoff, "at least --xds-backoff and at most 1h, such as 1m")
	for _, item := range x.NodeMetadata {
		if key, _, ok := strings.Cut(item, "="); !ok || key == "" {
			k.problem("xds-node-metadata", " %s: write it as KEY=VALUE, such as region=eu", flags.Quote(item))
		}
	}
	for _, header := range x.Headers {
		if name, value, ok := strings.Cut(header, ":"); !ok || !isXDSHeader(strings.TrimSpace(name), value) {
			k.problem("xds-header", ": write it as NAME: VALUE, such as authorization: Bearer token")
		}
	}
	if x.TLS {
		both := func(flag, value, other, otherValue string) {
			if value != "" && otherValue == "" {
				k.problem(flag, " %s: give --%s too", flags.Quote(value), other)
			}
		}
		both("xds-tls-cert", x.CertFile, "xds-tls-key", x.KeyFile)
		both("xds-tls-key", x.KeyFile, "xds-tls-cert", x.CertFile)
	} else {
		for _, f := range []struct{ name, value string }{
			{"xds-tls-ca", x.CAFile}, {"xds-tls-cert", x.CertFile}, {"xds-tls-key", x.KeyFile}, {"xds-tls-server-name", x.ServerName},
		} {
			if f.value != "" {
				k.problem(f.name, " %s: the server is reached without TLS; give --xds-tls too", flags.Quote(f.value))
			}
		}
	}
	if dir := filepath.Dir(x.CacheFile); x.CacheFile != "" {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			k.problem("xds-cache-file", " %s: there is no directory %s; make it, or write another file", flags.Quote(x.CacheFile), flags.Quote(dir))
		}
	}
	if !x.IsOn() {
		return
	}
	if problem := addressProblem(x.Server); problem != "" {
		k.problem("xds-server", " %s: %s; write host:port, such as envoy-gateway:18001", flags.Quote(x.Server), problem)
	}
	if k.c.Envoy.ConfigDir != "" {
		k.problem("xds-server", " %s: %s is given too; take the limits from the one or from the other", flags.Quote(x.Server), k.c.nameOf("envoy-config-dir"))
	}
}

// isXDSHeader reports whether gRPC can send a header.
func isXDSHeader(name, value string) bool {
	return isHeader(name) && !strings.HasPrefix(strings.ToLower(name), "grpc-") &&
		!strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' })
}

// Pairs returns the node's metadata and the headers, by their names.
func (x *XDS) Pairs() (metadata, headers map[string]string) {
	metadata, headers = map[string]string{}, map[string]string{}
	for _, item := range x.NodeMetadata {
		key, value, _ := strings.Cut(item, "=")
		metadata[key] = value
	}
	for _, header := range x.Headers {
		name, value, _ := strings.Cut(header, ":")
		headers[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
	}
	return metadata, headers
}

// Receive reads the resources that the xDS server has sent, each a RateLimitConfig: all
// that there are, in any order. before is what is in force, of which the rest stays. The
// error says why the resources cannot be used; the version tells them from others all
// the same.
func (c *Config) Receive(before *Policies, resources [][]byte) (*Policies, error) {
	p := *before
	p.Warnings, p.Removed, p.Restart = nil, nil, nil
	if n := len(resources); n > maxDirFiles {
		return &p, fmt.Errorf("%d resources, and there may be %d; send fewer", n, maxDirFiles)
	}
	resources = slices.Clone(resources)
	slices.SortFunc(resources, func(a, b []byte) int { return cmp.Compare(string(a), string(b)) }) // servers keep them in maps
	reader := c.envoyReader()
	sum := sha256.New()
	fmt.Fprintf(sum, "%d resources ", len(resources))
	var wrong []error
	for i, data := range resources {
		fmt.Fprintf(sum, "%d ", len(data))
		sum.Write(data)
		if len(wrong) == maxWrongResources {
			continue // nobody reads more
		}
		if err := reader.ReadMessage(fmt.Sprintf("resource %d", i), data); err != nil {
			wrong = append(wrong, err)
		}
	}
	p.Domains, p.Warnings, p.received = reader.Config, reader.Warnings, sum.Sum(nil)
	c.setVersion(&p)
	p.Removed = removed(before, &p)
	return &p, errors.Join(wrong...)
}
