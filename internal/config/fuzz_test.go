package config

import (
	"strings"
	"testing"
)

// FuzzFile reads files: the reader says what is wrong with any of them.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "---\n", "store: redis\nnamespaces: {}\n", "redis_password: hunter2\nredis_password: [hunter2]\n", "redis_url: [redis://a:hunter2@b/x]\nstore_timeout: soon\n",
		"&a redis_password: *a\n", "<<: {redis_password: hunter2}\nredis_sentinel_password:\n  hunter2: [hunter2]\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file := parseFile("c.yaml", data)
		c := Default()
		c.flags = c.Flags()
		c.flags.Apply(file.flags)
		if err := file.err(); err != nil && !strings.HasPrefix(err.Error(), "c.yaml:") {
			t.Errorf("the error does not name the file: %v", err)
		}
	})
}

// FuzzEnvoyVariables reads environments of Envoy's service. The flags that they set are
// some that there are, and what is wrong names its variable.
func FuzzEnvoyVariables(f *testing.F) {
	for _, seed := range []string{
		"RUNTIME_ROOT=/data\nREDIS_URL=mymaster,a:1,b:2\nREDIS_TYPE=sentinel\nREDIS_AUTH=a:b", "BACKEND_TYPE=memcache\nMEMCACHE_HOST_PORT=a:1,b:2",
		"GRPC_SERVER_USE_TLS=true\nGRPC_SERVER_TLS_CERT=c\nGRPC_CLIENT_TLS_SAN=s", "PORT=x\nGRPC_PORT=\xff\nLOG_LEVEL=panic\nREDIS_TLS=maybe\nREDIS_POOL_SIZE=-1",
		"REDIS_URL=redis://a:b@c/1\nREDIS_SOCKET_TYPE=unix\nREDIS_TYPE=cluster\nCONFIG_TYPE=GRPC_XDS_SOTW\nDEBUG_PORT=6070",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		environment := map[string]string{}
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			environment[name] = value
		}
		lookup := func(name string) (string, bool) { value, ok := environment[name]; return value, ok }
		e := readEnvoyVariables(lookup)
		c := Default()
		c.flags = c.Flags()
		known := map[string]bool{}
		for _, flag := range c.flags.Flags {
			known[flag.Name] = true
		}
		for name := range e.flags {
			if !known[name] {
				t.Errorf("it sets --%s, which is no flag", name)
			}
		}
		for _, err := range e.wrong {
			if name, _, _ := strings.Cut(err.Error(), "="); strings.ToUpper(name) != name {
				t.Errorf("it names no variable: %v", err)
			}
		}
		c.flags.Apply(e.flags)
		_, _, _ = Read(nil, lookup)
	})
}
