package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/cputime"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/keys"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/report"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
)

// A benchCase compares a subject with a baseline under one load.
type benchCase struct {
	name              string
	load              runCmd
	baseline, subject program
}

// A program is a server to measure. In its command line and its environment, {grpc}, {http}
// and {resp} stand for its addresses, {grpc-port} and {http-port} for their ports, and
// {store} for the address of its store. {envoy} stands for a directory with Envoy's
// configuration, envoyConfig, in config/.
type program struct {
	command string
	env     string // environment variables, separated by spaces
	store   string // "redis" or "memcached"; empty if it needs no server
	target  string // how it is asked, if not as the load says
}

// byClient returns p, asked by the Go client.
func (p program) byClient() program {
	p.target = target.Client
	return p
}

var (
	nullServer      = program{command: "loadtest null --grpc-addr={grpc} --http-addr={http}"}
	memoryServer    = program{command: "ratelimitd serve --log-level=warn --grpc-addr={grpc} --http-addr={http} --admin-addr=off"}
	envoyServer     = program{command: memoryServer.command + " --envoy-config-dir={envoy}/config"}
	redisServer     = program{command: memoryServer.command + " --store=redis --redis-url=redis://{store} --store-timeout=1s", store: "redis"}
	envoyRedis      = program{command: redisServer.command + " --envoy-config-dir={envoy}/config", store: "redis"}
	nullRESP        = program{command: nullServer.command + " --resp-addr={resp}"}
	respServer      = program{command: memoryServer.command + " --resp-addr={resp}"}
	memcachedServer = program{command: memoryServer.command + " --store=memcached --memcached-addr={store} --store-timeout=1s", store: "memcached"}

	// This is the service of Envoy's project. `go install` builds it. It sends
	// nothing to statsd.
	envoyproxy = program{
		command: "service_cmd",
		env: "RUNTIME_ROOT={envoy} RUNTIME_SUBDIRECTORY=. RUNTIME_WATCH_ROOT=false HOST=127.0.0.1 PORT={http-port} GRPC_HOST=127.0.0.1 GRPC_PORT={grpc-port} " +
			"DEBUG_HOST=127.0.0.1 DEBUG_PORT=0 REDIS_SOCKET_TYPE=tcp REDIS_URL={store} DISABLE_STATS=true LOG_LEVEL=error",
		store: "redis",
	}
)

// envoyproxyPackage is the package of envoyproxy, with its version.
const envoyproxyPackage = "github.com/envoyproxy/ratelimit/src/service_cmd@v1.4.1-0.20260122083618-3fb702589d36"

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

// envoyLoad is load with Envoy's protocol.
func envoyLoad(load runCmd) runCmd {
	load.Target, load.Namespace, load.Limit = target.Envoy, envoyDomain, []string{"1000000000/s"}
	load.Concurrency = cmp.Or(load.Concurrency, 128)
	return load
}

// matrices are the comparisons that are published. Fields of a load that are zero get the
// defaults of the flags.
var matrices = map[string][]benchCase{
	// How much a decision costs: the daemon against a server that decides nothing.
	"server": {
		{"unary, memory", runCmd{}, nullServer, memoryServer},
		{"unary, memory, Zipf", runCmd{KeyDistribution: keys.Zipf}, nullServer, memoryServer},
		{"unary, memory, one key far over its limit", runCmd{KeyDistribution: keys.Hot, Scenario: "over"}, nullServer, memoryServer},
		{"unary, memory, new keys alone", runCmd{KeyDistribution: keys.Flood}, nullServer, memoryServer},
		{"unary, memory, four limits", runCmd{Scenario: "several"}, nullServer, memoryServer},
		{"unary, memory, Envoy's protocol", envoyLoad(runCmd{Concurrency: 64}), nullServer, envoyServer},
		{"unary, memory, JSON over HTTP", runCmd{Target: target.HTTP}, nullServer, memoryServer},
		{"batches of 100, memory", runCmd{Target: target.Batch, Batch: 100}, nullServer, memoryServer},
		{"stream, memory", runCmd{Target: target.Stream, Concurrency: 256}, nullServer, memoryServer},
		{"stream of batches of 100, memory", runCmd{Target: target.Stream, Batch: 100}, nullServer, memoryServer},
		{"stream of batches of 100, memory, sliding_window_counter", runCmd{Target: target.Stream, Batch: 100, Strategy: "sliding_window_counter"}, nullServer, memoryServer},
		{"stream of batches of 100, memory, sliding_window_log", runCmd{Target: target.Stream, Batch: 100, Limit: []string{"100/s,sliding_window_log"}}, nullServer, memoryServer},
		{"stream of batches of 100, memory, token_bucket", runCmd{Target: target.Stream, Batch: 100, Strategy: "token_bucket"}, nullServer, memoryServer},
		{"stream of batches of 100, memory, leaky_bucket", runCmd{Target: target.Stream, Batch: 100, Strategy: "leaky_bucket"}, nullServer, memoryServer},
		{"stream of batches of 100, memory, gcra", runCmd{Target: target.Stream, Batch: 100, Strategy: "gcra"}, nullServer, memoryServer},
		{"stream of batches of 100, memory, windows of 100 ms", runCmd{Target: target.Stream, Batch: 100, Scenario: "boundary", Keys: 1000}, nullServer, memoryServer},
		{"unary, Redis", runCmd{Concurrency: 128, Limit: []string{"1000000/s,token_bucket"}}, nullServer, redisServer},
		{"unary, Redis, one key far over its limit", runCmd{Concurrency: 128, KeyDistribution: keys.Hot, Scenario: "over"}, nullServer, redisServer},
		{"unary, memcached", runCmd{Concurrency: 128}, nullServer, memcachedServer},
		{"unary, memory; the null server with Go's own GOGC", runCmd{}, nullServer.with("GOGC=100"), memoryServer},
		{"batches of 100, memory; likewise", runCmd{Target: target.Batch, Batch: 100}, nullServer.with("GOGC=100"), memoryServer},
		{"stream, memory; likewise", runCmd{Target: target.Stream, Concurrency: 256}, nullServer.with("GOGC=100"), memoryServer},
		{"stream of batches of 100, memory; likewise", runCmd{Target: target.Stream, Batch: 100}, nullServer.with("GOGC=100"), memoryServer},
		{"unary, Redis; likewise", runCmd{Concurrency: 128, Limit: []string{"1000000/s,token_bucket"}}, nullServer.with("GOGC=100"), redisServer},
		{"unary, memory, open loop of 5,000/s", runCmd{ArrivalRate: 5000, Poisson: true}, nullServer, memoryServer},
	},
	// The protocol of Redis: the daemon against a server of the library redcon that decides
	// nothing.
	"resp": {
		{"pipelines of 1, 8 connections", respLoad(1, 8), nullRESP, respServer},
		{"pipelines of 16, 8 connections", respLoad(16, 8), nullRESP, respServer},
		{"pipelines of 100, 8 connections", respLoad(100, 8), nullRESP, respServer},
		{"a lone caller", respLoad(1, 1), nullRESP, respServer},
		{"pipelines of 16, THROTTLE", throttleLoad(16), nullRESP, respServer},
		{"pipelines of 16, one key far over its limit", runCmd{Target: target.RESP, Batch: 16, Concurrency: 8, KeyDistribution: keys.Hot, Scenario: "over"}, nullRESP, respServer},
	},
	// A server that is not full. The last cases compare the daemon on as many threads as there
	// are processors with the daemon on one.
	"paced": {
		{"one caller", aloneLoad, nullServer, memoryServer},
		{"3,000/s", pacedLoad(3000), nullServer, memoryServer},
		{"20,000/s", pacedLoad(20_000), nullServer, memoryServer},
		{"3,000/s, Envoy's protocol", envoyLoad(pacedLoad(3000)), nullServer, envoyServer},
		{"one caller, GOMAXPROCS=1", aloneLoad, memoryServer, memoryServer.with("GOMAXPROCS=1")},
		{"3,000/s, GOMAXPROCS=1", pacedLoad(3000), memoryServer, memoryServer.with("GOMAXPROCS=1")},
		{"20,000/s, GOMAXPROCS=1", pacedLoad(20_000), memoryServer, memoryServer.with("GOMAXPROCS=1")},
		{"as many as it can, GOMAXPROCS=1", runCmd{}, memoryServer, memoryServer.with("GOMAXPROCS=1")},
	},
	// Other services against the daemon, each with its own Redis.
	"peers": {
		{"envoyproxy/ratelimit, unary, Redis", envoyLoad(runCmd{}), envoyproxy, envoyRedis},
		{"envoyproxy/ratelimit with explicit pipelining, unary, Redis", envoyLoad(runCmd{}), envoyproxy.with("REDIS_PIPELINE_WINDOW=150us REDIS_PIPELINE_LIMIT=128"), envoyRedis},
		{"envoyproxy/ratelimit with its local cache, one key far over its limit, Redis", envoyLoad(runCmd{KeyDistribution: keys.Hot, DescriptorKey: "hot"}), envoyproxy.with("LOCAL_CACHE_SIZE_IN_BYTES=1000000"), envoyRedis},
		{"envoyproxy/ratelimit with Redis, and ours in memory", envoyLoad(runCmd{}), envoyproxy, envoyServer},
	},
	// The Go client against calls of which each goes on its own, as generated code makes them.
	"client": {
		{"1 caller", runCmd{Concurrency: 1}, memoryServer, memoryServer.byClient()},
		{"16 callers", runCmd{Concurrency: 16}, memoryServer, memoryServer.byClient()},
		{"256 callers", runCmd{Concurrency: 256}, memoryServer, memoryServer.byClient()},
		{"256 callers, four limits", runCmd{Concurrency: 256, Scenario: "several"}, memoryServer, memoryServer.byClient()},
		{"1 caller, Redis", runCmd{Concurrency: 1}, redisServer, redisServer.byClient()},
		{"256 callers, Redis", runCmd{Concurrency: 256}, redisServer, redisServer.byClient()},
	},
	// The transport's options, on the null server: each option on its own against the
	// defaults of gRPC, and the options that the null server uses.
	"transport": {
		{"unary, stream workers: as many as processors", runCmd{}, plain(""), plain("--stream-workers=2")},
		{"unary, stream workers: 16", runCmd{}, plain(""), plain("--stream-workers=16")},
		{"unary, stream workers: 64", runCmd{}, plain(""), plain("--stream-workers=64")},
		{"unary, stream workers: 128", runCmd{}, plain(""), plain("--stream-workers=128")},
		{"unary, generated code", runCmd{}, plain(""), plain("--codec=generated")},
		{"unary, read buffer of 64 KiB", runCmd{}, plain(""), plain("--read-buffer=65536")},
		{"unary, write buffer of 64 KiB", runCmd{}, plain(""), plain("--write-buffer=65536")},
		{"unary, generated code and 128 workers", runCmd{}, plain(""), plain("--codec=generated --stream-workers=128")},
		{"batches of 100, generated code", runCmd{Target: target.Batch, Batch: 100}, plain(""), plain("--codec=generated")},
		{"stream, generated code", runCmd{Target: target.Stream, Concurrency: 256}, plain(""), plain("--codec=generated")},
		{"stream of batches of 100, generated code", runCmd{Target: target.Stream, Batch: 100}, plain(""), plain("--codec=generated")},
	},
}

// respLoad is pipelines over the protocol of Redis.
func respLoad(pipeline, connections int) runCmd {
	return runCmd{Target: target.RESP, Batch: pipeline, Concurrency: connections}
}

// aloneLoad is one caller on one connection.
var aloneLoad = runCmd{Concurrency: 1, Connections: 1}

// pacedLoad is so many calls a second.
func pacedLoad(rate float64) runCmd { return runCmd{ArrivalRate: rate} }

// throttleLoad is pipelines of THROTTLE.
func throttleLoad(pipeline int) runCmd {
	return runCmd{Target: target.Throttle, Batch: pipeline, Concurrency: 8, Limit: []string{"1000000/s,gcra,burst=1000000"}}
}

// plain is the null server with the defaults of gRPC, followed by more options.
func plain(more string) program {
	return program{command: nullServer.command + " --codec=standard --stream-workers=0 " + more}
}

type benchCmd struct {
	Matrix    string
	Out       string
	Duration  time.Duration
	Warmup    time.Duration
	Repeat    int
	MaxStolen float64
	Only      string
}

// newBenchCmd returns the command with the defaults of its flags.
func newBenchCmd() *benchCmd {
	return &benchCmd{
		Matrix:    "server",
		Out:       "loadtest/results",
		Duration:  time.Second,
		Warmup:    200 * time.Millisecond,
		Repeat:    5,
		MaxStolen: 0.1,
	}
}

// flags returns the flags whose values are the fields of c.
func (c *benchCmd) flags() *flags.Set {
	return &flags.Set{Flags: []flags.Flag{
		{Name: "matrix", Value: flags.OneOf(&c.Matrix, "server", "paced", "resp", "peers", "client", "transport"), Help: "What to compare: the daemon with the null server (server; paced, where it is not full; or resp, over the protocol of Redis) or with other services (peers), the Go client with calls that go alone (client), or options of gRPC (transport)."},
		{Name: "out", Value: flags.Text(&c.Out), Help: "Where to write the results."},
		{Name: "duration", Value: flags.Duration(&c.Duration), Help: "How long to measure each run."},
		{Name: "warmup", Value: flags.Duration(&c.Warmup), Help: "How long to run before that, unmeasured."},
		{Name: "repeat", Value: flags.Number(&c.Repeat), Help: "How often to run each case. Baseline and subject take turns."},
		{Name: "max-stolen", Value: flags.Float(&c.MaxStolen), Help: "Run a pair of baseline and subject again if the machine's host took more than this share of the processors' time. Stop after four times --repeat pairs, and keep those with the smallest share."},
		{Name: "only", Value: flags.Text(&c.Only), Hint: "TEXT", Help: "Run only the cases whose name contains this text. Print the results and write no file."},
	}}
}

// Run runs the matrix and writes the results.
func (c *benchCmd) Run(ctx context.Context, out, log io.Writer) error {
	if c.Repeat < 1 || c.Repeat > 100 {
		return fmt.Errorf("--repeat %d: give 1 to 100, such as 5", c.Repeat)
	}
	if c.Duration <= 0 || c.Duration > time.Minute {
		return fmt.Errorf("--duration %s: give more than 0s and at most 1m, such as 1s", c.Duration)
	}
	if c.MaxStolen < 0 || c.MaxStolen > 1 {
		return fmt.Errorf("--max-stolen %g: give a share of 0 to 1, such as 0.1", c.MaxStolen)
	}
	if c.Warmup < 0 || c.Warmup > time.Minute {
		return fmt.Errorf("--warmup %s: give 0s to 1m, such as 200ms", c.Warmup)
	}
	b := bench{benchCmd: c, log: log}
	var err error
	if b.dir, err = os.MkdirTemp("", "loadtest"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	if err := b.build(ctx); err != nil {
		return err
	}
	stop, err := keepAwake()
	if err != nil {
		return err
	}
	defer stop()
	var rows []row
	for _, bc := range matrices[c.Matrix] {
		if !strings.Contains(bc.name, c.Only) {
			continue
		}
		r, err := b.compare(ctx, &bc)
		if err != nil {
			return fmt.Errorf("%s: %w", bc.name, err)
		}
		fmt.Fprintln(log, b.line(&r))
		rows = append(rows, r)
	}
	startup, err := b.startup(ctx)
	if err != nil {
		return fmt.Errorf("start-up: %w", err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("--only %q: no case of --matrix %s has this text in its name; try --only unary", c.Only, c.Matrix)
	}
	page := b.page(ctx, rows) + startup
	if c.Only != "" { // the file is for whole matrices
		fmt.Fprint(out, page)
		return nil
	}
	name := filepath.Join(c.Out, c.Matrix+".md")
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if err := os.WriteFile(name, []byte(page), 0o644); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	fmt.Fprintln(out, "written:", name)
	return nil
}

type bench struct {
	*benchCmd
	log io.Writer
	dir string // has the built programs
}

// build builds the programs to measure.
func (b *bench) build(ctx context.Context) error {
	for _, name := range []string{"./cmd/ratelimitd", "./loadtest"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", b.dir+string(filepath.Separator), name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w; run this command in the root of the repository\n%s", name, err, text)
		}
	}
	if b.Matrix == "peers" {
		cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", envoyproxyPackage)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+b.dir)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("install %s: %w\n%s", envoyproxyPackage, err, text)
		}
	}
	config := filepath.Join(b.dir, "envoy", "config")
	if err := os.MkdirAll(config, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(config, "loadtest.yaml"), []byte(envoyConfig), 0o644)
}

// compare runs one case.
func (b *bench) compare(ctx context.Context, bc *benchCase) (row, error) {
	r := row{name: bc.name}
	baseline, err := b.start(ctx, bc.baseline)
	if err != nil {
		return r, err
	}
	defer baseline.stop()
	subject, err := b.start(ctx, bc.subject)
	if err != nil {
		return r, err
	}
	defer subject.stop()
	var pairs []pair
	for undisturbed := 0; undisturbed < b.Repeat && len(pairs) < triesPerRepeat*b.Repeat; {
		p, err := b.pair(ctx, bc, baseline, subject)
		if err != nil {
			return r, err
		}
		if p.stolen <= b.MaxStolen {
			undisturbed++
		}
		pairs = append(pairs, p)
	}
	r.tries = len(pairs)
	// Keep the pairs that were disturbed least, whatever they measured.
	slices.SortStableFunc(pairs, func(x, y pair) int { return cmp.Compare(x.stolen, y.stolen) })
	for _, p := range pairs[:b.Repeat] {
		if p.baseline.Decisions == 0 || p.subject.Decisions == 0 {
			return r, errors.New("a run made no decision, and it is one of those that were disturbed least")
		}
		r.stolen, r.baseline, r.subject = append(r.stolen, p.stolen), append(r.baseline, p.baseline), append(r.subject, p.subject)
	}
	return r, nil
}

// triesPerRepeat bounds how often disturbed pairs are run again.
const triesPerRepeat = 4

// A pair is a run of the baseline, followed by a run of the subject.
type pair struct {
	baseline, subject *report.Report
	stolen            float64 // share of the processors' time that the machine's host took
}

func (b *bench) pair(ctx context.Context, bc *benchCase, baseline, subject *process) (p pair, err error) {
	stolen, all, err := cputime.Stolen()
	if err != nil {
		return p, err
	}
	if p.baseline, err = b.measure(ctx, bc, baseline); err != nil {
		return p, fmt.Errorf("baseline: %w", err)
	}
	if p.subject, err = b.measure(ctx, bc, subject); err != nil {
		return p, fmt.Errorf("subject: %w", err)
	}
	if p.subject.Correctness.KeysOver > 0 && (b.Matrix == "server" || b.Matrix == "resp") {
		return p, fmt.Errorf("subject: %s", p.subject.Verdict())
	}
	stolenThen, allThen, err := cputime.Stolen()
	p.stolen = float64(stolenThen-stolen) / float64(allThen-all)
	return p, err
}

// A process is a running server, together with its store and files.
type process struct {
	grpc, http, resp, store string
	target                  string // of its program
	stops                   []func()
}

func (p *process) stop() {
	for _, stop := range slices.Backward(p.stops) {
		stop()
	}
}

func (b *bench) start(ctx context.Context, s program) (p *process, err error) {
	p = &process{target: s.target}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	run := func(addr string, command ...string) error {
		stop, err := startServer(ctx, command, addr, io.Discard)
		if err != nil {
			return fmt.Errorf("%q: %w", command, err)
		}
		p.stops = append(p.stops, stop)
		return nil
	}
	addrs, err := freeAddrs(4)
	if err != nil {
		return p, err
	}
	p.grpc, p.http, p.resp = addrs[0], addrs[1], addrs[3]
	if s.store != "" {
		p.store = addrs[2]
		_, port, _ := net.SplitHostPort(p.store)
		command := []string{"redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", port}
		if s.store == "memcached" {
			command = []string{"memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", port}
		}
		if err := run(p.store, command...); err != nil {
			return p, err
		}
	}
	port := func(addr string) string {
		_, port, _ := net.SplitHostPort(addr)
		return port
	}
	fill := strings.NewReplacer("{grpc}", p.grpc, "{http}", p.http, "{resp}", p.resp, "{grpc-port}", port(p.grpc), "{http-port}", port(p.http),
		"{store}", p.store, "{envoy}", filepath.Join(b.dir, "envoy"))
	command := strings.Fields(fill.Replace(s.command))
	command[0] = filepath.Join(b.dir, command[0])
	if s.env != "" {
		command = slices.Concat([]string{"env"}, strings.Fields(fill.Replace(s.env)), command)
	}
	return p, run(p.grpc, command...)
}

// freeAddrs returns n addresses of the loopback interface on which nobody listens.
func freeAddrs(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // at the end, so that all addresses differ
		addrs[i] = l.Addr().String()
	}
	return addrs, nil
}

func (b *bench) measure(ctx context.Context, bc *benchCase, p *process) (*report.Report, error) {
	c := bc.load
	c.Target = cmp.Or(p.target, c.Target, target.Unary)
	c.Addr, c.Duration, c.Warmup = p.grpc, b.Duration, b.Warmup
	if c.Target == target.HTTP {
		c.Addr = p.http
	}
	if c.Target == target.RESP || c.Target == target.Throttle {
		c.Addr = p.resp
	}
	c.Concurrency = cmp.Or(c.Concurrency, 64)
	c.Connections, c.Streams = cmp.Or(c.Connections, 4), 4
	c.KeyDistribution, c.Keys = cmp.Or(c.KeyDistribution, keys.Uniform), cmp.Or(c.Keys, 100_000)
	c.Scenario, c.Cost, c.Seed, c.Quiet, c.DescriptorKey = cmp.Or(c.Scenario, "below"), 1, 1, true, cmp.Or(c.DescriptorKey, "user")
	if p.store != "" {
		_, port, _ := net.SplitHostPort(p.store)
		c.RedisPort, _ = strconv.Atoi(port) // this process chose the address
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	r, err := c.measure(ctx, b.log)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil && (r.Errors > 0 || r.StoreFailures > 0) {
		err = fmt.Errorf("%d decisions, %d errors, %d failures of the store: %s", r.Decisions, r.Errors, r.StoreFailures, r.FirstError)
	}
	return r, err
}

// A row has the results of a case.
type row struct {
	name              string
	tries             int // how many pairs were run; those not kept were disturbed more
	stolen            []float64
	baseline, subject []*report.Report
}

const header = `| case | baseline: decisions/s | subject: decisions/s | baseline: server CPU, µs a decision | subject: server CPU | ratio of server CPU | baseline: store's CPU | subject: store's CPU | client CPU | baseline: p50 | subject: p50 | p99 | p99.9 | stolen | pairs run |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`

func (r *row) markdown() string {
	rate := func(x *report.Report) float64 { return x.DecisionsPerSecond }
	server := func(x *report.Report) float64 { return value(x.CPU.Server) }
	ratios := make([]float64, len(r.subject))
	for i := range ratios {
		ratios[i] = server(r.subject[i]) / server(r.baseline[i])
	}
	store := func(runs []*report.Report) string {
		if runs[0].CPU.Redis == nil {
			return "-"
		}
		return spread(of(runs, func(x *report.Report) float64 { return value(x.CPU.Redis) }), "%.2f")
	}
	latency := func(runs []*report.Report, of3 func(l *report.Latency) float64) string {
		return fmt.Sprintf("%.0f µs", median(of(runs, func(x *report.Report) float64 { return of3(&x.Latency) })))
	}
	p50 := func(l *report.Latency) float64 { return l.P50 }
	return fmt.Sprintf("| %s | %s | %s | %s | %s | **%s** | %s | %s | %s | %s | %s | %s | %s | %.0f%% | %d |", r.name,
		spread(of(r.baseline, rate), "%.0f"), spread(of(r.subject, rate), "%.0f"),
		spread(of(r.baseline, server), "%.2f"), spread(of(r.subject, server), "%.2f"), spread(ratios, "%.2f"),
		store(r.baseline), store(r.subject), fmt.Sprintf("%.2f", median(of(r.subject, func(x *report.Report) float64 { return value(x.CPU.Client) }))),
		latency(r.baseline, p50), latency(r.subject, p50), latency(r.subject, func(l *report.Latency) float64 { return l.P99 }), latency(r.subject, func(l *report.Latency) float64 { return l.P999 }),
		100*slices.Max(r.stolen), r.tries)
}

const clientHeader = "The baseline is calls that go alone, on four connections and with no deadline. The subject is package client, on one connection\nand with deadlines. CPU is that of both, the daemon and the load generator with its client.\n\n" +
	`| case | alone: decisions/s | client: decisions/s | alone: CPU, µs a decision | client: CPU | decisions a CPU second, client to alone | alone: p50 | client: p50 | ratio | alone: p99 | client: p99 | ratio | stolen | pairs run |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`

// line returns r as a line of the table of the matrix.
func (b *bench) line(r *row) string {
	if b.Matrix != "client" {
		return r.markdown()
	}
	rate := func(x *report.Report) float64 { return x.DecisionsPerSecond }
	both := func(x *report.Report) float64 { return value(x.CPU.Server) + value(x.CPU.Client) }
	p50 := func(x *report.Report) float64 { return x.Latency.P50 }
	p99 := func(x *report.Report) float64 { return x.Latency.P99 }
	ratio := func(of, to []*report.Report, f func(*report.Report) float64) string {
		all := make([]float64, len(of))
		for i := range all {
			all[i] = f(of[i]) / f(to[i])
		}
		return spread(all, "%.2f")
	}
	latency := func(runs []*report.Report, f func(*report.Report) float64) string {
		return fmt.Sprintf("%.0f µs", median(of(runs, f)))
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | **%s** | %s | %s | %s | %s | %s | %s | %.0f%% | %d |", r.name,
		spread(of(r.baseline, rate), "%.0f"), spread(of(r.subject, rate), "%.0f"),
		spread(of(r.baseline, both), "%.2f"), spread(of(r.subject, both), "%.2f"), ratio(r.baseline, r.subject, both),
		latency(r.baseline, p50), latency(r.subject, p50), ratio(r.subject, r.baseline, p50),
		latency(r.baseline, p99), latency(r.subject, p99), ratio(r.subject, r.baseline, p99),
		100*slices.Max(r.stolen), r.tries)
}

func value(x *float64) float64 {
	if x == nil {
		return 0
	}
	return *x
}

func of(all []*report.Report, f func(*report.Report) float64) []float64 {
	out := make([]float64, len(all))
	for i, r := range all {
		out[i] = f(r)
	}
	return out
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	n := len(x)
	return (x[n/2] + x[(n-1)/2]) / 2
}

// spread shows the median, the smallest and the greatest value.
func spread(x []float64, format string) string {
	return fmt.Sprintf(format+" ("+format+" to "+format+")", median(x), slices.Min(x), slices.Max(x))
}

// page returns the results, and on which machine they were measured.
func (b *bench) page(ctx context.Context, rows []row) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Results: %s\n\nWritten by `go run ./loadtest bench --matrix %[1]s --duration %s --warmup %s --repeat %d`, client and servers on one\nmachine. Each cell has the median of the runs, and in brackets the smallest and the greatest value. Baseline\nand subject took turns, and each ratio compares two runs that followed each other. On a shared machine, that\nis steadier than the numbers themselves.\n\nIdle processors did not halt: a loop in the scheduler's idle class kept each awake. The column stolen shows how\nmuch processor time the host of a virtual machine took all the same, as the greatest share of the pairs shown. A\npair that lost more than %g%% was run again, until %[4]d pairs had lost less or %[6]d had been run. The pairs that\nlost least are shown.\n\n", b.Matrix, b.Duration, b.Warmup, b.Repeat, 100*b.MaxStolen, triesPerRepeat*b.Repeat)
	fmt.Fprintf(&out, "| | |\n|---|---|\n| when | %s |\n| commit | %s |\n| machine | %d processors, %s |\n| kernel | %s |\n| Go | %s |\n| Redis | %s |\n| memcached | %s |\n\n",
		time.Now().UTC().Format(time.DateOnly), says(ctx, "git", "describe", "--always", "--dirty"), runtime.NumCPU(), processor(), says(ctx, "uname", "-sr"),
		runtime.Version(), says(ctx, "redis-server", "--version"), says(ctx, "memcached", "--version"))
	if b.Matrix == "client" {
		out.WriteString(clientHeader)
	} else {
		out.WriteString(header)
	}
	for _, r := range rows {
		out.WriteString(b.line(&r) + "\n")
	}
	return out.String()
}

// says returns the first line of what a command prints.
func says(ctx context.Context, name string, args ...string) string {
	text, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "(not installed)"
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(first)
}

// processor returns the model of the machine's processor.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if errors.Is(err, os.ErrNotExist) {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, model, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}
