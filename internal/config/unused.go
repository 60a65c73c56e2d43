package config

import (
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/spelling"
)

// LogUnused logs what is set and has no effect: flags of stores that are not
// used, and the variables in environment, as os.Environ returns it, that begin
// like ours and that no flag uses.
func (c *Config) LogUnused(environment []string, logger *slog.Logger) {
	variables := map[string]bool{}
	var names []string
	for _, flag := range c.flags.Flags {
		variables[c.flags.Variable(flag.Name)] = true
		names = append(names, c.flags.Variable(flag.Name))
		if _, set := c.flags.Setting(flag.Name); !set {
			continue
		}
		if !c.XDS.IsOn() && strings.HasPrefix(flag.Name, "xds-") {
			logger.Warn("a flag has no effect without --xds-server", "flag", "--"+flag.Name)
		}
		for _, other := range []StoreKind{Redis, Memcached} {
			if c.Store.Kind != other && strings.HasPrefix(flag.Name, string(other)+"-") {
				logger.Warn("a flag has no effect with this store", "flag", "--"+flag.Name, "store", c.Store.Kind)
			}
		}
	}
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		if !c.sources.isEnvoy && value != "" && isOnlyOfEnvoy(name) {
			logger.Warn("this environment variable is of envoyproxy/ratelimit, and has no effect without RUNTIME_ROOT", "variable", name)
			continue
		}
		if variables[name] || !strings.HasPrefix(name, EnvPrefix+"_") || ofKubernetes.MatchString(name) {
			continue
		}
		attributes := []any{"variable", name}
		if meant, ok := spelling.Closest(name, names); ok {
			attributes = append(attributes, "did_you_mean", meant)
		}
		logger.Warn("no flag of ratelimitd serve uses this environment variable, so it has no effect", attributes...)
	}
}

// ofKubernetes matches the variables that Kubernetes sets in each container for
// a service that is called ratelimitd.
var ofKubernetes = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)$`)

// isOnlyOfEnvoy reports whether a variable is of envoyproxy/ratelimit, and hardly of
// anybody else.
func isOnlyOfEnvoy(name string) bool {
	own := slices.ContainsFunc([]string{"RUNTIME_", "LIMIT_", "CONFIG_GRPC_XDS_", "XDS_CLIENT_", "GRPC_SERVER_", "GRPC_CLIENT_TLS_", "REDIS_PERSECOND", "REDIS_SENTINEL_AUTH", "MEMCACHE_", "BACKEND_TYPE"},
		func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	return own && slices.ContainsFunc(serviceVariables, func(v variable) bool { return v.name == name })
}
