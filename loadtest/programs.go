package main

// A program is a server to measure. In its command line and its environment, {grpc}, {http}
// and {resp} stand for its addresses, {grpc-port}, {http-port} and {resp-port} for their
// ports, and {store} for the address of its store. {files} stands for a directory with
// Envoy's configuration, envoyConfig, in config/, and limitadorConfig in limitador.yaml.
type program struct {
	peer    string // of --peer, if it is not ours; its command is the arguments alone
	command string
	env     string // environment variables, separated by spaces
	store   string // "redis" or "memcached"; empty if it needs no server
	target  string // how it is asked, if not as the load says
	probed  bool   // whether its callers send BDP probes, though the load does not say so
}

// by returns p, asked in another way than the load says.
func (p program) by(protocol string) program {
	p.target = protocol
	return p
}

// byProbers returns p, asked by callers that send BDP probes.
func (p program) byProbers() program {
	p.probed = true
	return p
}

var (
	nullServer      = program{command: "loadtest null --grpc-addr={grpc} --http-addr={http}"}
	memoryServer    = program{command: "ratelimitd serve --log-level=warn --grpc-addr={grpc} --http-addr={http} --admin-addr=off"}
	envoyServer     = program{command: memoryServer.command + " --envoy-config-dir={files}/config"}
	redisServer     = program{command: memoryServer.command + " --store=redis --redis-url=redis://{store} --store-timeout=1s", store: "redis"}
	envoyRedis      = program{command: redisServer.command + " --envoy-config-dir={files}/config", store: "redis"}
	nullRESP        = program{command: nullServer.command + " --resp-addr={resp}"}
	respServer      = program{command: memoryServer.command + " --resp-addr={resp}"}
	memcachedServer = program{command: memoryServer.command + " --store=memcached --memcached-addr={store} --store-timeout=1s", store: "memcached"}
)

// with returns p with more environment variables.
func (p program) with(env string) program {
	p.env += " " + env
	return p
}

// envoyConfig has the limit for the loads with Envoy's protocol.
const (
	envoyDomain = "loadtest"
	envoyConfig = "domain: " + envoyDomain + "\ndescriptors:\n" +
		"  - key: user\n    rate_limit: {unit: second, requests_per_unit: 1000000000}\n" +
		"  - key: hot\n    rate_limit: {unit: hour, requests_per_unit: 10}\n"
)

// plain is the null server with the defaults of gRPC, followed by more options.
func plain(more string) program {
	return program{command: nullServer.command + " --codec=standard --stream-workers=0 " + more}
}
