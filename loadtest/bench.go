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

// A program is a command line in which %[1]s stands for its gRPC address, %[2]s
// for its HTTP address, %[3]s for that of its store and %[4]s for a directory of
// Envoy's configuration, which is envoyConfig.
type program struct {
	command string
	store   string // "redis" or "memcached"; empty: none of its own
}

var (
	nullServer      = program{command: "loadtest null --grpc-addr=%[1]s --http-addr=%[2]s"}
	memoryServer    = program{command: "ratelimitd serve --log-level=warn --grpc-addr=%[1]s --http-addr=%[2]s --admin-addr=off"}
	envoyServer     = program{command: memoryServer.command + " --envoy-config-dir=%[4]s"}
	redisServer     = program{command: "ratelimitd serve --log-level=warn --grpc-addr=%[1]s --http-addr=%[2]s --admin-addr=off --store=redis --redis-url=redis://%[3]s --store-timeout=1s", store: "redis"}
	memcachedServer = program{command: "ratelimitd serve --log-level=warn --grpc-addr=%[1]s --http-addr=%[2]s --admin-addr=off --store=memcached --memcached-addr=%[3]s --store-timeout=1s", store: "memcached"}
)

// envoyConfig has the limit that the loads of Envoy's protocol are held to.
const (
	envoyDomain = "loadtest"
	envoyConfig = "domain: " + envoyDomain + "\ndescriptors:\n  - key: user\n    rate_limit: {unit: second, requests_per_unit: 1000000000}\n"
)

// matrices are the published ones. A load's fields that are zero have the
// defaults of the flags.
var matrices = map[string][]benchCase{
	// What a decision costs, against a server that makes none.
	"server": {
		{"unary, memory", runCmd{}, nullServer, memoryServer},
		{"unary, memory, Zipf", runCmd{KeyDistribution: keys.Zipf}, nullServer, memoryServer},
		{"unary, memory, one key far over its limit", runCmd{KeyDistribution: keys.Hot, Scenario: "over"}, nullServer, memoryServer},
		{"unary, memory, new keys alone", runCmd{KeyDistribution: keys.Flood}, nullServer, memoryServer},
		{"unary, memory, four limits", runCmd{Scenario: "several"}, nullServer, memoryServer},
		{"unary, memory, Envoy's protocol", runCmd{Target: target.Envoy, Namespace: envoyDomain, Limit: []string{"1000000000/s"}}, nullServer, envoyServer},
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
		{"unary, memory, open loop of 5,000/s", runCmd{ArrivalRate: 5000, Poisson: true}, nullServer, memoryServer},
	},
	// The transport's options, on the null server: each alone against what
	// gRPC does by itself, and those that the null server has.
	"transport": {
		{"unary, stream workers: as many as processors", runCmd{}, plain(""), plain("--stream-workers=2")},
		{"unary, stream workers: 16", runCmd{}, plain(""), plain("--stream-workers=16")},
		{"unary, stream workers: 64", runCmd{}, plain(""), plain("--stream-workers=64")},
		{"unary, generated code", runCmd{}, plain(""), plain("--codec=generated")},
		{"unary, read buffer of 64 KiB", runCmd{}, plain(""), plain("--read-buffer=65536")},
		{"unary, write buffer of 64 KiB", runCmd{}, plain(""), plain("--write-buffer=65536")},
		{"unary, generated code and 64 workers", runCmd{}, plain(""), plain("--codec=generated --stream-workers=64")},
		{"batches of 100, generated code", runCmd{Target: target.Batch, Batch: 100}, plain(""), plain("--codec=generated")},
		{"stream, generated code", runCmd{Target: target.Stream, Concurrency: 256}, plain(""), plain("--codec=generated")},
		{"stream of batches of 100, generated code", runCmd{Target: target.Stream, Batch: 100}, plain(""), plain("--codec=generated")},
	},
}

// plain is the null server with gRPC's own options and, after those, more.
func plain(more string) program {
	return program{command: nullServer.command + " --codec=standard --stream-workers=0 " + more}
}

type benchCmd struct {
	Matrix   string        `enum:"server,transport" default:"server" help:"What to compare: server (the daemon with the null server) or transport (options of gRPC)."`
	Out      string        `default:"loadtest/results" placeholder:"DIR" help:"Where to write the results."`
	Duration time.Duration `default:"1s" help:"How long to measure each run."`
	Warmup   time.Duration `default:"200ms" help:"How long to go before that."`
	Repeat   int           `default:"5" help:"Runs of each case, of baseline and subject in turns."`
	Only     string        `placeholder:"TEXT" help:"Only the cases whose name has this text."`
}

// Run runs the matrix and writes the results.
func (c *benchCmd) Run(ctx context.Context, out io.Writer, log stderrWriter) error {
	if c.Repeat < 1 || c.Repeat > 100 {
		return fmt.Errorf("--repeat %d: give 1 to 100, such as 5", c.Repeat)
	}
	if c.Duration <= 0 || c.Duration > time.Minute {
		return fmt.Errorf("--duration %s: give more than 0s and at most 1m, such as 1s", c.Duration)
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
	var rows []row
	for _, bc := range matrices[c.Matrix] {
		if !strings.Contains(bc.name, c.Only) {
			continue
		}
		r, err := b.compare(ctx, &bc)
		if err != nil {
			return fmt.Errorf("%s: %w", bc.name, err)
		}
		fmt.Fprintln(log, r.markdown())
		rows = append(rows, r)
	}
	startup, err := b.startup(ctx)
	if err != nil {
		return fmt.Errorf("start-up: %w", err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("--only %q: no case of --matrix %s has that in its name; try --only unary", c.Only, c.Matrix)
	}
	name := filepath.Join(c.Out, c.Matrix+".md")
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if err := os.WriteFile(name, []byte(b.page(ctx, rows)+startup), 0o644); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	fmt.Fprintln(out, "written:", name)
	return nil
}

type bench struct {
	*benchCmd
	log io.Writer
	dir string // of the built programs
}

// build builds the programs that are measured.
func (b *bench) build(ctx context.Context) error {
	for _, name := range []string{"./cmd/ratelimitd", "./loadtest"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.dir+string(filepath.Separator), name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s, which must be run in the repository's root: %w\n%s", name, err, text)
		}
	}
	return nil
}

// compare runs a case.
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
	for range b.Repeat {
		one, err := b.measure(ctx, bc, baseline)
		if err != nil {
			return r, fmt.Errorf("baseline: %w", err)
		}
		two, err := b.measure(ctx, bc, subject)
		if err != nil {
			return r, fmt.Errorf("subject: %w", err)
		}
		if two.Correctness.KeysOver > 0 && b.Matrix == "server" {
			return r, fmt.Errorf("subject: %s", two.Verdict())
		}
		r.baseline, r.subject = append(r.baseline, one), append(r.subject, two)
	}
	return r, nil
}

// A process is a server that runs, with what it needs.
type process struct {
	grpc, http, store string
	stops             []func()
}

func (p *process) stop() {
	for _, stop := range slices.Backward(p.stops) {
		stop()
	}
}

func (b *bench) start(ctx context.Context, s program) (p *process, err error) {
	p = &process{}
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
	if s.store != "" {
		if p.store, err = freeAddr(); err != nil {
			return p, err
		}
		_, port, _ := net.SplitHostPort(p.store)
		command := []string{"redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", port}
		if s.store == "memcached" {
			command = []string{"memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", port}
		}
		if err := run(p.store, command...); err != nil {
			return p, err
		}
	}
	if p.grpc, err = freeAddr(); err != nil {
		return p, err
	}
	if p.http, err = freeAddr(); err != nil {
		return p, err
	}
	command := strings.NewReplacer("%[1]s", p.grpc, "%[2]s", p.http, "%[3]s", p.store, "%[4]s", b.dir).Replace(s.command)
	if err := os.WriteFile(filepath.Join(b.dir, "envoy.yaml"), []byte(envoyConfig), 0o644); err != nil {
		return p, err
	}
	return p, run(p.grpc, strings.Fields(b.dir+string(filepath.Separator)+command)...)
}

// freeAddr returns an address of the loopback interface that nobody listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (b *bench) measure(ctx context.Context, bc *benchCase, p *process) (*report.Report, error) {
	c := bc.load
	c.Target = cmp.Or(c.Target, target.Unary)
	c.Addr, c.Duration, c.Warmup = p.grpc, b.Duration, b.Warmup
	if c.Target == target.HTTP {
		c.Addr = p.http
	}
	c.Concurrency = cmp.Or(c.Concurrency, 64)
	c.Connections, c.Streams = 4, 4
	c.KeyDistribution, c.Keys = cmp.Or(c.KeyDistribution, keys.Uniform), cmp.Or(c.Keys, 100_000)
	c.Scenario, c.Cost, c.Seed, c.Quiet, c.DescriptorKey = cmp.Or(c.Scenario, "below"), 1, 1, true, "user"
	if p.store != "" {
		_, port, _ := net.SplitHostPort(p.store)
		c.RedisPort, _ = strconv.Atoi(port) // it is one of ours
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	r, err := c.measure(ctx, b.log)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil && (r.Errors > 0 || r.StoreFailures > 0 || r.Decisions == 0) {
		err = fmt.Errorf("%d decisions, %d errors, %d failures of the store: %s", r.Decisions, r.Errors, r.StoreFailures, r.FirstError)
	}
	return r, err
}

// A row is what a case measured.
type row struct {
	name              string
	baseline, subject []*report.Report
}

const header = `| case | baseline: decisions/s | subject: decisions/s | baseline: server CPU, µs a decision | subject: server CPU | ratio of server CPU | store's CPU | client CPU | subject: p50 | p99 | p99.9 |
|---|---|---|---|---|---|---|---|---|---|---|
`

func (r *row) markdown() string {
	rate := func(x *report.Report) float64 { return x.DecisionsPerSecond }
	server := func(x *report.Report) float64 { return value(x.CPU.Server) }
	ratios := make([]float64, len(r.subject))
	for i := range ratios {
		ratios[i] = server(r.subject[i]) / server(r.baseline[i])
	}
	store := "-"
	if r.subject[0].CPU.Redis != nil {
		store = spread(of(r.subject, func(x *report.Report) float64 { return value(x.CPU.Redis) }), "%.2f")
	}
	latency := func(of3 func(l *report.Latency) float64) string {
		return fmt.Sprintf("%.0f µs", median(of(r.subject, func(x *report.Report) float64 { return of3(&x.Latency) })))
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | **%s** | %s | %s | %s | %s | %s |", r.name,
		spread(of(r.baseline, rate), "%.0f"), spread(of(r.subject, rate), "%.0f"),
		spread(of(r.baseline, server), "%.2f"), spread(of(r.subject, server), "%.2f"), spread(ratios, "%.2f"),
		store, fmt.Sprintf("%.2f", median(of(r.subject, func(x *report.Report) float64 { return value(x.CPU.Client) }))),
		latency(func(l *report.Latency) float64 { return l.P50 }), latency(func(l *report.Latency) float64 { return l.P99 }), latency(func(l *report.Latency) float64 { return l.P999 }))
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

// spread shows the median, the least and the most.
func spread(x []float64, format string) string {
	return fmt.Sprintf(format+" ("+format+" to "+format+")", median(x), slices.Min(x), slices.Max(x))
}

// page returns the results with where they are from.
func (b *bench) page(ctx context.Context, rows []row) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Results: %s\n\nWritten by `go run ./loadtest bench --matrix %[1]s --duration %s --warmup %s --repeat %d`, client and servers on one\nmachine. Each cell is the median of the runs, and in brackets the least and the most. Baseline and\nsubject took turns, and a ratio is of two runs that followed each other: on a machine that others\nuse too it is steadier than what it is made of.\n\n", b.Matrix, b.Duration, b.Warmup, b.Repeat)
	fmt.Fprintf(&out, "| | |\n|---|---|\n| when | %s |\n| commit | %s |\n| machine | %d processors, %s |\n| kernel | %s |\n| Go | %s |\n| Redis | %s |\n| memcached | %s |\n\n",
		time.Now().UTC().Format(time.DateOnly), says(ctx, "git", "describe", "--always", "--dirty"), runtime.NumCPU(), processor(), says(ctx, "uname", "-sr"),
		runtime.Version(), says(ctx, "redis-server", "--version"), says(ctx, "memcached", "--version"))
	out.WriteString(header)
	for _, r := range rows {
		out.WriteString(r.markdown() + "\n")
	}
	return out.String()
}

// says returns the first line that a command prints.
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
