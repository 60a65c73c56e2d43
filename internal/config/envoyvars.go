package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// A variable is one of the environment of envoyproxy/ratelimit.
type variable struct {
	name string
	kind kind
	fate fate // with a value that asks for something
}

// A kind is how a value is written, as Go's package strconv and time read it.
type kind uint8

// The kinds.
const (
	text kind = iota
	boolean
	integer
	decimal
	duration
)

// A fate is what becomes of a variable that is set.
type fate uint8

// The fates. A value that asks for what the daemon does anyway is heeded always.
const (
	heeded  fate = iota // it sets a flag, or what it says is so
	refused             // ignored, it would change who may pass or who can listen in
	ignored             // with a warning
)

// serviceVariables are all that the service has, each once. docs/envoy.md has them too.
var serviceVariables = []variable{
	{"HOST", text, heeded}, {"PORT", integer, heeded}, {"DEBUG_HOST", text, heeded}, {"DEBUG_PORT", integer, heeded},
	{"GRPC_HOST", text, heeded}, {"GRPC_PORT", integer, heeded}, {"GRPC_UDS", text, refused},
	{"GRPC_MAX_CONNECTION_AGE", duration, heeded}, {"GRPC_MAX_CONNECTION_AGE_GRACE", duration, heeded},
	{"GRPC_SERVER_USE_TLS", boolean, heeded}, {"GRPC_SERVER_TLS_CERT", text, heeded}, {"GRPC_SERVER_TLS_KEY", text, heeded},
	{"GRPC_CLIENT_TLS_CACERT", text, heeded}, {"GRPC_CLIENT_TLS_SAN", text, heeded},
	{"LOG_LEVEL", text, heeded}, {"LOG_FORMAT", text, heeded},

	{"RUNTIME_ROOT", text, heeded}, {"RUNTIME_SUBDIRECTORY", text, heeded}, {"RUNTIME_APPDIRECTORY", text, heeded},
	{"RUNTIME_IGNOREDOTFILES", boolean, heeded}, {"RUNTIME_WATCH_ROOT", boolean, heeded}, {"MERGE_DOMAIN_CONFIG", boolean, heeded},
	{"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", boolean, heeded}, {"FORCE_START_WITHOUT_INITIAL_CONFIG", boolean, heeded},
	{"SHADOW_MODE", boolean, heeded}, {"QUOTA_MODE", boolean, heeded}, {"RESPONSE_DYNAMIC_METADATA", boolean, heeded},
	{"LIMIT_RESPONSE_HEADERS_ENABLED", boolean, heeded}, {"LIMIT_LIMIT_HEADER", text, heeded}, {"LIMIT_REMAINING_HEADER", text, heeded}, {"LIMIT_RESET_HEADER", text, heeded},
	{"STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", boolean, heeded}, {"LOCAL_CACHE_SIZE_IN_BYTES", integer, heeded},
	{"CACHE_KEY_PREFIX", text, heeded}, {"EXPIRATION_JITTER_MAX_SECONDS", integer, ignored},

	{"CONFIG_TYPE", text, heeded},
	{"CONFIG_GRPC_XDS_NODE_ID", text, heeded}, {"CONFIG_GRPC_XDS_NODE_METADATA", text, heeded}, {"CONFIG_GRPC_XDS_SERVER_URL", text, heeded},
	{"CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", duration, heeded}, {"CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", text, heeded},
	{"CONFIG_GRPC_XDS_SERVER_USE_TLS", boolean, heeded}, {"CONFIG_GRPC_XDS_SERVER_TLS_CACERT", text, heeded}, {"CONFIG_GRPC_XDS_SERVER_TLS_SAN", text, heeded},
	{"CONFIG_GRPC_XDS_CLIENT_TLS_CERT", text, heeded}, {"CONFIG_GRPC_XDS_CLIENT_TLS_KEY", text, heeded},
	{"XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", duration, heeded}, {"XDS_CLIENT_BACKOFF_MAX_INTERVAL", duration, heeded},
	{"XDS_CLIENT_BACKOFF_RANDOM_FACTOR", decimal, ignored}, {"XDS_CLIENT_BACKOFF_JITTER", boolean, heeded}, {"XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", integer, heeded},

	{"USE_PROMETHEUS", boolean, heeded}, {"PROMETHEUS_ADDR", text, heeded}, {"PROMETHEUS_PATH", text, heeded}, {"NEAR_LIMIT_RATIO", decimal, heeded},
	{"PROMETHEUS_MAPPER_YAML", text, ignored}, {"PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS", boolean, ignored},
	{"USE_STATSD", boolean, ignored}, {"STATSD_HOST", text, ignored}, {"STATSD_PORT", integer, ignored},
	{"USE_DOG_STATSD", boolean, ignored}, {"USE_DOG_STATSD_MOGRIFIERS", text, ignored},
	{"EXTRA_TAGS", text, ignored}, {"STATS_FLUSH_INTERVAL", duration, ignored}, {"DISABLE_STATS", boolean, ignored},
	{"TRACING_ENABLED", boolean, heeded}, {"TRACING_EXPORTER_PROTOCOL", text, ignored}, {"TRACING_SAMPLING_RATE", decimal, ignored},
	{"TRACING_SERVICE_NAME", text, ignored}, {"TRACING_SERVICE_NAMESPACE", text, ignored}, {"TRACING_SERVICE_INSTANCE_ID", text, ignored},

	{"BACKEND_TYPE", text, heeded}, {"REDIS_URL", text, heeded}, {"REDIS_TYPE", text, heeded}, {"REDIS_SOCKET_TYPE", text, heeded},
	{"REDIS_AUTH", text, heeded}, {"REDIS_AUTH_FILE", text, heeded}, {"REDIS_SENTINEL_AUTH", text, heeded}, {"REDIS_POOL_SIZE", integer, heeded}, {"REDIS_TIMEOUT", duration, heeded},
	{"REDIS_TLS", boolean, heeded}, {"REDIS_TLS_CACERT", text, heeded}, {"REDIS_TLS_CLIENT_CERT", text, heeded}, {"REDIS_TLS_CLIENT_KEY", text, heeded},
	{"REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", boolean, refused}, {"REDIS_POOL_ON_EMPTY_BEHAVIOR", text, refused},
	{"REDIS_PIPELINE_WINDOW", duration, ignored}, {"REDIS_PIPELINE_LIMIT", integer, ignored}, {"REDIS_CLUSTER_PIPELINE_PARALLELISM", integer, ignored},
	{"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", boolean, ignored}, {"REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR", boolean, heeded},
	{"REDIS_STARTUP_INITIAL_INTERVAL", duration, ignored}, {"REDIS_STARTUP_MAX_INTERVAL", duration, ignored}, {"REDIS_STARTUP_MAX_ELAPSED_TIME", duration, ignored},
	{"REDIS_PERSECOND", boolean, ignored}, {"REDIS_PERSECOND_URL", text, ignored}, {"REDIS_PERSECOND_TYPE", text, ignored}, {"REDIS_PERSECOND_SOCKET_TYPE", text, ignored},
	{"REDIS_PERSECOND_AUTH", text, ignored}, {"REDIS_PERSECOND_AUTH_FILE", text, ignored}, {"REDIS_PERSECOND_SENTINEL_AUTH", text, ignored}, {"REDIS_PERSECOND_TLS", boolean, ignored},
	{"REDIS_PERSECOND_POOL_SIZE", integer, ignored}, {"REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR", text, ignored}, {"REDIS_PERSECOND_TIMEOUT", duration, ignored},
	{"REDIS_PERSECOND_PIPELINE_WINDOW", duration, ignored}, {"REDIS_PERSECOND_PIPELINE_LIMIT", integer, ignored}, {"REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM", integer, ignored},
	{"MEMCACHE_HOST_PORT", text, heeded}, {"MEMCACHE_SRV", text, refused}, {"MEMCACHE_SRV_REFRESH", duration, ignored}, {"MEMCACHE_MAX_IDLE_CONNS", integer, ignored},
	{"MEMCACHE_TLS", boolean, refused}, {"MEMCACHE_TLS_CACERT", text, ignored}, {"MEMCACHE_TLS_CLIENT_CERT", text, ignored}, {"MEMCACHE_TLS_CLIENT_KEY", text, ignored},
	{"MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION", boolean, ignored},
}

// envoyVariables are what the environment variables of envoyproxy/ratelimit say,
// by our flags.
type envoyVariables struct {
	lookup  func(string) (string, bool)
	above   []flags.Source // what sets the flags before these variables do
	flags   flags.Source
	ignored []string // variables that have no effect, with their values
	wrong   []error

	values map[string]string // of the variables that are set to something; numbers in base 10
	heeded map[string]bool   // the variables that were asked for
}

// readValues reads the values of all variables, and refuses those that the service
// cannot read either.
func (e *envoyVariables) readValues() {
	for _, v := range serviceVariables {
		value, _ := e.lookup(v.name)
		if value == "" {
			continue
		}
		read, example, err := value, "", error(nil)
		switch v.kind {
		case boolean:
			var on bool
			on, err = strconv.ParseBool(value)
			read, example = strconv.FormatBool(on), "true or false"
		case integer:
			var n int64
			n, err = strconv.ParseInt(value, 0, 64) // in other bases too, as the service does
			read, example = strconv.FormatInt(n, 10), "a whole number, such as 8"
		case decimal:
			_, err = strconv.ParseFloat(value, 64)
			example = "a number, such as 0.8"
		case duration:
			_, err = time.ParseDuration(value)
			example = "a number and its unit, such as 10s"
		case text:
		}
		if err != nil {
			e.wrong = append(e.wrong, fmt.Errorf("%s=%s: write %s", v.name, flags.Quote(value), example))
			e.heeded[v.name] = true
			continue
		}
		e.values[v.name] = read
	}
}

// warn notes the variables that nothing has asked for. A feature that is to be off
// needs none.
func (e *envoyVariables) warn() {
	for _, v := range serviceVariables {
		value := e.values[v.name]
		off := v.kind == boolean && value == "false" && v.name != "RUNTIME_IGNOREDOTFILES"
		if value == "" || e.heeded[v.name] || off {
			continue
		}
		e.ignored = append(e.ignored, v.name+"="+withoutSecret(v.name, value))
	}
}

// withoutSecret returns a value as messages show it.
func withoutSecret(name, value string) string {
	if strings.HasSuffix(name, "_AUTH") || name == headersVariable {
		return flags.Hidden
	}
	return flags.WithoutPassword(value)
}

// text returns the value of a variable, and "" if it has none.
func (e *envoyVariables) text(variable string) string {
	e.heeded[variable] = true
	return e.values[variable]
}

func (e *envoyVariables) on(variable string) bool { return e.text(variable) == "true" }

// is heeds a variable if it has the one value that the daemon can do.
func (e *envoyVariables) is(variable, value string) {
	if strings.EqualFold(e.values[variable], value) {
		e.heeded[variable] = true
	}
}

// over returns what sets a flag before these variables do.
func (e *envoyVariables) over(flag string) (value string, set bool) {
	for _, source := range e.above {
		if setting, ok := source[flag]; ok {
			return setting.Text, true
		}
	}
	return "", false
}

// set sets a flag because of a variable, unless value is "".
func (e *envoyVariables) set(flag, value, variable string) {
	if value != "" {
		e.flags[flag] = flags.Setting{Text: value, Name: variable}
	}
}

// refuse says what is wrong with the value of a variable.
func (e *envoyVariables) refuse(variable, format string, args ...any) {
	e.heeded[variable] = true
	value, _ := e.lookup(variable)
	e.wrong = append(e.wrong, fmt.Errorf("%s=%s: %s", variable, flags.Quote(withoutSecret(variable, value)), fmt.Sprintf(format, args...)))
}

// headersVariable has headers, which may be secret.
const headersVariable = "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS"
