package config

import "strings"

// typeXDS is the CONFIG_TYPE of limits that an xDS server sends.
const typeXDS = "GRPC_XDS_SOTW"

// sameMeaningXDS has the variables whose values a flag takes as they are, with that
// CONFIG_TYPE.
var sameMeaningXDS = []struct{ variable, flag string }{
	{"CONFIG_GRPC_XDS_NODE_ID", "xds-node-id"},
	{"XDS_CLIENT_BACKOFF_MAX_INTERVAL", "xds-backoff-max"},
	{"FORCE_START_WITHOUT_INITIAL_CONFIG", "xds-start-unconfigured"},
}

// sameMeaningXDSTLS are such variables that count only with
// CONFIG_GRPC_XDS_SERVER_USE_TLS.
var sameMeaningXDSTLS = []struct{ variable, flag string }{
	{"CONFIG_GRPC_XDS_CLIENT_TLS_CERT", "xds-tls-cert"},
	{"CONFIG_GRPC_XDS_CLIENT_TLS_KEY", "xds-tls-key"},
	{"CONFIG_GRPC_XDS_SERVER_TLS_CACERT", "xds-tls-ca"},
	{"CONFIG_GRPC_XDS_SERVER_TLS_SAN", "xds-tls-server-name"},
}

// xds sets the flags of the xDS server that sends the limits.
func (e *envoyVariables) xds() {
	server := e.text("CONFIG_GRPC_XDS_SERVER_URL")
	if server == "" {
		server = "localhost:18000" // the service's default
	}
	e.set("xds-server", server, "CONFIG_GRPC_XDS_SERVER_URL")
	for _, same := range sameMeaningXDS {
		e.set(same.flag, e.text(same.variable), same.variable)
	}
	if e.on("CONFIG_GRPC_XDS_SERVER_USE_TLS") {
		e.set("xds-tls", "true", "CONFIG_GRPC_XDS_SERVER_USE_TLS")
		for _, same := range sameMeaningXDSTLS {
			e.set(same.flag, e.text(same.variable), same.variable)
		}
	}
	// Both are waits before connecting again, of which there is one here.
	for _, variable := range []string{"CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL"} {
		e.set("xds-backoff", e.text(variable), variable)
	}
	if bytes := e.text("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES"); bytes != "0" { // which is gRPC's default there, and ours
		e.set("xds-max-message-bytes", bytes, "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES")
	}
	e.xdsMetadata()
	e.xdsHeaders()
	e.is("XDS_CLIENT_BACKOFF_JITTER", "true")
	for _, files := range []string{"RUNTIME_ROOT", "RUNTIME_SUBDIRECTORY", "RUNTIME_APPDIRECTORY", "RUNTIME_IGNOREDOTFILES", "RUNTIME_WATCH_ROOT"} {
		e.text(files) // which no service reads then; Envoy Gateway sets them all the same
	}
}

// xdsMetadata reads key=value, with commas between. As in the service, what has no = is
// nothing.
func (e *envoyVariables) xdsMetadata() {
	const variable = "CONFIG_GRPC_XDS_NODE_METADATA"
	var pairs []string
	for item := range strings.SplitSeq(e.text(variable), ",") {
		key, value, ok := strings.Cut(item, "=")
		switch {
		case strings.ContainsAny(item, " \t\n"):
			e.refuse(variable, "a space is in it; write KEY=VALUE without, and commas between several")
			return
		case ok && key != "":
			pairs = append(pairs, key+"="+value)
		}
	}
	e.set("xds-node-metadata", strings.Join(pairs, " "), variable)
}

// xdsHeaders reads name:value, with commas between.
func (e *envoyVariables) xdsHeaders() {
	e.set("xds-header", strings.ReplaceAll(e.text(headersVariable), ",", "\n"), headersVariable)
}
