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
// and {resp} stand for its addresses, {grpc-port}, {http-port} and {resp-port} for their
// ports, and {store} for the address of its store. {files} stands for a directory with
// Envoy's configuration, envoyConfig, in config/, and limitadorConfig in limitador.yaml.
type program struct {
	peer    string // of --peer, if it is not ours; its command is the arguments alone
	command string
	env     string // environment variables, separated by spaces
	store   string // "redis" or "memcached"; empty if it needs no server
	target  string // how it is asked, if not as the load says
}

// by returns p, asked in another way than the load says.
func (p program) by(protocol string) program {
	p.target = protocol
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
		{"unary, memory, JSON over HTTP, 128 connections", runCmd{Target: target.HTTP, Concurrency: 128}, nullServer, memoryServer},
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
	"peers": peerCases,
	// The Go client against calls of which each goes on its own, as generated code makes them.
	"client": {
		{"1 caller", runCmd{Concurrency: 1}, memoryServer, memoryServer.by(target.Client)},
		{"16 callers", runCmd{Concurrency: 16}, memoryServer, memoryServer.by(target.Client)},
		{"256 callers", runCmd{Concurrency: 256}, memoryServer, memoryServer.by(target.Client)},
		{"256 callers, four limits", runCmd{Concurrency: 256, Scenario: "several"}, memoryServer, memoryServer.by(target.Client)},
		{"1 caller, Redis", runCmd{Concurrency: 1}, redisServer, redisServer.by(target.Client)},
		{"256 callers, Redis", runCmd{Concurrency: 256}, redisServer, redisServer.by(target.Client)},
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
	Peer      []string
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
		{Name: "peer", Value: flags.Lines(&c.Peer), Hint: "NAME=PATH", Help: "For --matrix peers: the program of " + strings.Join(peerNames, ", ") + ". May be repeated. Cases of a service that is not given are left out."},
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
	if b.peers, err = findPeers(c.Peer); err != nil {
		return err
	}
	if (c.Matrix == "peers") != (len(b.peers) > 0) {
		return fmt.Errorf("--matrix %s, %d of --peer: --matrix peers goes with the programs of other services, such as --peer throttlecrab=/usr/local/bin/throttlecrab-server", c.Matrix, len(b.peers))
	}
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
		if _, found := b.peers[bc.baseline.peer]; !strings.Contains(bc.name, c.Only) || bc.baseline.peer != "" && !found {
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
	if c.Matrix != "client" && c.Matrix != "transport" {
		fmt.Fprint(out, "for docs/performance.md:\n\n", shortTable(rows))
	}
	return nil
}

type bench struct {
	*benchCmd
	log   io.Writer
	dir   string            // has the built programs
	peers map[string]string // programs by name
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
	files := filepath.Join(b.dir, "files")
	if err := os.MkdirAll(filepath.Join(files, "config"), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(files, "config", "loadtest.yaml"), []byte(envoyConfig), 0o644),
		os.WriteFile(filepath.Join(files, "limitador.yaml"), []byte(limitadorConfig), 0o644))
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
	for undisturbed := 0; undisturbed < b.Repeat && r.tries < triesPerRepeat*b.Repeat; r.tries++ {
		p, err := b.pair(ctx, bc, baseline, subject)
		if err != nil {
			return r, err
		}
		if p.baseline.Decisions == 0 || p.subject.Decisions == 0 {
			continue // the machine did something else all the time
		}
		if p.stolen <= b.MaxStolen {
			undisturbed++
		}
		pairs = append(pairs, p)
	}
	if len(pairs) < b.Repeat {
		return r, fmt.Errorf("%d of %d pairs of runs made a decision, want %d; give a longer --duration than %s", len(pairs), r.tries, b.Repeat, b.Duration)
	}
	// Keep the pairs that were disturbed least, whatever they measured.
	slices.SortStableFunc(pairs, func(x, y pair) int { return cmp.Compare(x.stolen, y.stolen) })
	for _, p := range pairs[:b.Repeat] {
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
	run := func(addrs []string, command ...string) error {
		stop, err := startServer(ctx, command, addrs, io.Discard)
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
		if err := run([]string{p.store}, command...); err != nil {
			return p, err
		}
	}
	port := func(addr string) string {
		_, port, _ := net.SplitHostPort(addr)
		return port
	}
	fill := strings.NewReplacer("{grpc}", p.grpc, "{http}", p.http, "{resp}", p.resp,
		"{grpc-port}", port(p.grpc), "{http-port}", port(p.http), "{resp-port}", port(p.resp),
		"{store}", p.store, "{files}", filepath.Join(b.dir, "files"))
	command := strings.Fields(fill.Replace(s.command))
	if s.peer != "" {
		command = append([]string{b.peers[s.peer]}, command...)
	} else {
		command[0] = filepath.Join(b.dir, command[0])
	}
	if s.env != "" {
		command = slices.Concat([]string{"env"}, strings.Fields(fill.Replace(s.env)), command)
	}
	listens := []string{p.grpc, p.http}
	if text := s.command + s.env; strings.Contains(text, "{resp}") || strings.Contains(text, "{resp-port}") {
		listens = append(listens, p.resp)
	}
	return p, run(listens, command...)
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
	switch {
	case target.IsHTTP(c.Target):
		c.Addr = p.http
	case target.IsRESP(c.Target):
		c.Addr = p.resp
	case c.Target == target.Unary:
		c.Batch = 0 // the other takes batches of one
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
	return fmt.Sprintf("| %s | %s | %s | %s | %s | **%s** | %s | %s | %s | %s | %s | %s | %s | %.0f%% | %d |", r.name,
		spread(of(r.baseline, decisionRate), "%.0f"), spread(of(r.subject, decisionRate), "%.0f"),
		spread(of(r.baseline, serverCPU), "%.2f"), spread(of(r.subject, serverCPU), "%.2f"), r.ratios(serverCPU),
		storeCPU(r.baseline), storeCPU(r.subject), fmt.Sprintf("%.2f", median(of(r.subject, func(x *report.Report) float64 { return value(x.CPU.Client) }))),
		micros(r.baseline, p50), micros(r.subject, p50), micros(r.subject, p99), micros(r.subject, func(x *report.Report) float64 { return x.Latency.P999 }),
		100*slices.Max(r.stolen), r.tries)
}

const clientHeader = "The baseline is calls that go alone, on four connections and with no deadline. The subject is package client, on one connection\nand with deadlines. CPU is that of both, the daemon and the load generator with its client.\n\n" +
	`| case | alone: decisions/s | client: decisions/s | alone: CPU, µs a decision | client: CPU | decisions a CPU second, client to alone | alone: p50 | client: p50 | ratio | alone: p99 | client: p99 | ratio | stolen | pairs run |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`

const peersHeader = "The baseline is the other service, asked by its own protocol, and the subject is the daemon. A ratio is the daemon's\ndivided by the other's: below 1 the daemon needs less.\n\n" +
	`| case | other: decisions/s | ours: decisions/s | other: server CPU, µs a decision | ours: server CPU | ratio of server CPU | other: Redis's CPU | ours: Redis's CPU | other: p50 | ours: p50 | ratio | other: p99 | ours: p99 | ratio | stolen | pairs run |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`

// line returns r as a line of the table of the matrix.
func (b *bench) line(r *row) string {
	switch b.Matrix {
	case "client":
		return r.clientLine()
	case "peers":
		return r.peersLine()
	default:
		return r.markdown()
	}
}

// shortTable returns rows as docs/performance.md has them.
func shortTable(rows []row) string {
	var out strings.Builder
	out.WriteString(shortHeader)
	for i := range rows {
		fmt.Fprintln(&out, rows[i].shortLine())
	}
	return out.String()
}

const shortHeader = `| case | CPU: daemon | CPU: other | ratio | store CPU: daemon | other | p50: daemon | other | decisions/s: daemon |
|---|---|---|---|---|---|---|---|---|
`

// shortLine returns r as a line of such a table.
func (r *row) shortLine() string {
	store := func(runs []*report.Report) string {
		if runs[0].CPU.Redis == nil {
			return ""
		}
		return fmt.Sprintf("%.2f", median(of(runs, func(x *report.Report) float64 { return value(x.CPU.Redis) })))
	}
	return fmt.Sprintf("| %s | %.2f | %.2f | %s | %s | %s | %s | %s | %.0f |", r.name,
		median(of(r.subject, serverCPU)), median(of(r.baseline, serverCPU)), r.ratios(serverCPU),
		store(r.subject), store(r.baseline), micros(r.subject, p50), micros(r.baseline, p50), median(of(r.subject, decisionRate)))
}

// ratios shows what f is of subject, divided by what it is of baseline, pair by pair.
func (r *row) ratios(f func(*report.Report) float64) string {
	all := make([]float64, len(r.subject))
	for i := range all {
		all[i] = f(r.subject[i]) / f(r.baseline[i])
	}
	return spread(all, "%.2f")
}

func decisionRate(x *report.Report) float64 { return x.DecisionsPerSecond }
func serverCPU(x *report.Report) float64    { return value(x.CPU.Server) }
func p50(x *report.Report) float64          { return x.Latency.P50 }
func p99(x *report.Report) float64          { return x.Latency.P99 }

// micros shows the median of microseconds.
func micros(runs []*report.Report, f func(*report.Report) float64) string {
	return fmt.Sprintf("%.0f µs", median(of(runs, f)))
}

// storeCPU shows the processor time of the store.
func storeCPU(runs []*report.Report) string {
	if runs[0].CPU.Redis == nil {
		return "-"
	}
	return spread(of(runs, func(x *report.Report) float64 { return value(x.CPU.Redis) }), "%.2f")
}

func (r *row) peersLine() string {
	return fmt.Sprintf("| %s | %s | %s | %s | %s | **%s** | %s | %s | %s | %s | %s | %s | %s | %s | %.0f%% | %d |", r.name,
		spread(of(r.baseline, decisionRate), "%.0f"), spread(of(r.subject, decisionRate), "%.0f"),
		spread(of(r.baseline, serverCPU), "%.2f"), spread(of(r.subject, serverCPU), "%.2f"), r.ratios(serverCPU),
		storeCPU(r.baseline), storeCPU(r.subject),
		micros(r.baseline, p50), micros(r.subject, p50), r.ratios(p50),
		micros(r.baseline, p99), micros(r.subject, p99), r.ratios(p99),
		100*slices.Max(r.stolen), r.tries)
}

func (r *row) clientLine() string {
	both := func(x *report.Report) float64 { return value(x.CPU.Server) + value(x.CPU.Client) }
	thrift := func(x *report.Report) float64 { return 1 / both(x) }
	return fmt.Sprintf("| %s | %s | %s | %s | %s | **%s** | %s | %s | %s | %s | %s | %s | %.0f%% | %d |", r.name,
		spread(of(r.baseline, decisionRate), "%.0f"), spread(of(r.subject, decisionRate), "%.0f"),
		spread(of(r.baseline, both), "%.2f"), spread(of(r.subject, both), "%.2f"), r.ratios(thrift),
		micros(r.baseline, p50), micros(r.subject, p50), r.ratios(p50),
		micros(r.baseline, p99), micros(r.subject, p99), r.ratios(p99),
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
	fmt.Fprintf(&out, "| | |\n|---|---|\n| when | %s |\n| commit | %s |\n| machine | %d processors, %s |\n| kernel | %s |\n| Go | %s |\n| Redis | %s |\n| memcached | %s |\n",
		time.Now().UTC().Format(time.DateOnly), says(ctx, "git", "describe", "--always", "--dirty"), runtime.NumCPU(), processor(), says(ctx, "uname", "-sr"),
		runtime.Version(), says(ctx, "redis-server", "--version"), says(ctx, "memcached", "--version"))
	if b.Matrix == "peers" {
		out.WriteString(b.describePeers(ctx))
	}
	out.WriteString("\n")
	switch b.Matrix {
	case "client":
		out.WriteString(clientHeader)
	case "peers":
		out.WriteString(peersHeader)
	default:
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
