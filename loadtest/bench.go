package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
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
	if b.programs.peers, err = findPeers(c.Peer); err != nil {
		return err
	}
	if (c.Matrix == "peers") != (len(b.programs.peers) > 0) {
		return fmt.Errorf("--matrix %s, %d of --peer: --matrix peers goes with the programs of other services, such as --peer throttlecrab=/usr/local/bin/throttlecrab-server", c.Matrix, len(b.programs.peers))
	}
	if b.programs.dir, err = os.MkdirTemp("", "loadtest"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.programs.dir) }()
	if err := b.programs.build(ctx); err != nil {
		return err
	}
	stop, err := keepAwake()
	if err != nil {
		return err
	}
	defer stop()
	var rows []row
	for _, bc := range matrices[c.Matrix] {
		if _, found := b.programs.peers[bc.baseline.peer]; !strings.Contains(bc.name, c.Only) || bc.baseline.peer != "" && !found {
			continue
		}
		r, err := b.compare(ctx, &bc)
		if err != nil {
			return fmt.Errorf("%s: %w", bc.name, err)
		}
		fmt.Fprintln(log, b.line(&r))
		rows = append(rows, r)
	}
	started, err := startup(ctx, &b.programs)
	if err != nil {
		return fmt.Errorf("start-up: %w", err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("--only %q: no case of --matrix %s has this text in its name; try --only unary", c.Only, c.Matrix)
	}
	page := b.page(ctx, rows) + started
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
	log      io.Writer
	programs programs
}

// compare runs one case.
func (b *bench) compare(ctx context.Context, bc *benchCase) (row, error) {
	r := row{name: bc.name}
	baseline, err := b.programs.start(ctx, bc.baseline)
	if err != nil {
		return r, err
	}
	defer baseline.stop()
	subject, err := b.programs.start(ctx, bc.subject)
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

// A pair is a run of the baseline, followed by a run of the subject.
type pair struct {
	baseline, subject *report.Report
	stolen            float64 // share of the processors' time that the machine's host took
}

func (b *bench) pair(ctx context.Context, bc *benchCase, baseline, subject *runningServer) (p pair, err error) {
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

func (b *bench) measure(ctx context.Context, bc *benchCase, p *runningServer) (*report.Report, error) {
	c := bc.load
	c.Target = cmp.Or(p.program.target, c.Target, target.Unary)
	c.BDPProbe = c.BDPProbe || p.program.probed
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

// page returns the results, and on which machine they were measured.
func (b *bench) page(ctx context.Context, rows []row) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Results: %s\n\nWritten by `go run ./loadtest bench --matrix %[1]s --duration %s --warmup %s --repeat %d`, client and servers on one\nmachine. Each cell has the median of the runs, and in brackets the smallest and the greatest value. Baseline\nand subject took turns, and each ratio compares two runs that followed each other. On a shared machine, that\nis steadier than the numbers themselves.\n\nIdle processors did not halt: a loop in the scheduler's idle class kept each awake. The column stolen shows how\nmuch processor time the host of a virtual machine took all the same, as the greatest share of the pairs shown. A\npair that lost more than %g%% was run again, until %[4]d pairs had lost less or %[6]d had been run. The pairs that\nlost least are shown.\n\n", b.Matrix, b.Duration, b.Warmup, b.Repeat, 100*b.MaxStolen, triesPerRepeat*b.Repeat)
	fmt.Fprintf(&out, "| | |\n|---|---|\n| when | %s |\n| commit | %s |\n| machine | %d processors, %s |\n| kernel | %s |\n| Go | %s |\n| Redis | %s |\n| memcached | %s |\n",
		time.Now().UTC().Format(time.DateOnly), firstLine(ctx, "git", "describe", "--always", "--dirty"), runtime.NumCPU(), processorModel(), firstLine(ctx, "uname", "-sr"),
		runtime.Version(), firstLine(ctx, "redis-server", "--version"), firstLine(ctx, "memcached", "--version"))
	if b.Matrix == "peers" {
		out.WriteString(describePeers(ctx, b.programs.peers))
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
