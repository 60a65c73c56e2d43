package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/connect"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/cputime"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/keys"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/load"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/report"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

type runCmd struct {
	Target string
	Addr   string
	Path   string

	Duration    time.Duration
	Warmup      time.Duration
	Count       int64
	Concurrency int
	Connections int
	BDPProbe    bool
	Streams     int
	Batch       int
	ArrivalRate float64
	Poisson     bool
	Seed        uint64

	KeyDistribution string
	Keys            int

	Scenario string
	Strategy string
	Limit    []string
	Policy   string
	Cost     uint64

	Namespace     string
	DescriptorKey string

	Start     string
	ServerPID int
	RedisPID  int
	RedisPort int

	JSON  bool
	HTML  string
	Quiet bool

	Connect connect.Options

	limits []strategy.Limit // from --limit or the scenario
}

// newRunCmd returns the command with the defaults of its flags.
func newRunCmd() *runCmd {
	return &runCmd{
		Target:          "unary",
		Duration:        10 * time.Second,
		Warmup:          time.Second,
		Concurrency:     64,
		Connections:     4,
		Streams:         4,
		Seed:            1,
		KeyDistribution: "uniform",
		Keys:            100000,
		Scenario:        "below",
		Cost:            1,
		DescriptorKey:   "user",
	}
}

// flags returns the flags whose values are the fields of c.
func (c *runCmd) flags() *flags.Set {
	return &flags.Set{Flags: append([]flags.Flag{
		{Name: "target", Value: flags.OneOf(&c.Target, "unary", "batch", "stream", "client", "envoy", "http", "envoy-http", "resp", "throttle", "throttlecrab", "throttlecrab-http", "limitador-http", "gubernator"), Help: "How to ask: unary, batch or stream of ratelimit.v1; the Go client, which makes batches of its own (client); envoy (RateLimitService v3); http (JSON of ratelimit.v1) or envoy-http; resp (RL.ALLOW over the protocol of Redis) or throttle (THROTTLE of throttlecrab over it). For other servers: throttlecrab (its gRPC), throttlecrab-http, limitador-http or gubernator."},
		{Name: "addr", Value: flags.Text(&c.Addr), Hint: "HOST:PORT", Help: "The server; by default 127.0.0.1:8081, or :8080 for http and :6379 for resp and throttle."},
		{Name: "path", Value: flags.Text(&c.Path), Hint: "/PATH", Help: "The path for http targets; by default /v1/should-allow, or /json for envoy-http."},
		{Name: "duration", Value: flags.Duration(&c.Duration), Help: "How long to measure."},
		{Name: "warmup", Value: flags.Duration(&c.Warmup), Help: "How long to run before that, unmeasured."},
		{Name: "count", Value: flags.Number(&c.Count), Hint: "N", Help: "Stop after this many calls; 0 stops only after --duration."},
		{Name: "concurrency", Value: flags.Number(&c.Concurrency), Help: "How many calls are under way at a time, at most."},
		{Name: "connections", Value: flags.Number(&c.Connections), Help: "gRPC connections."},
		{Name: "bdp-probe", Value: flags.Bool(&c.BDPProbe), Help: "Have gRPC measure each connection with a ping beside nearly each call, as programs in Go do by default. Envoy and the clients of ratelimitd do not."},
		{Name: "streams", Value: flags.Number(&c.Streams), Help: "Streams, in total over all connections."},
		{Name: "batch", Value: flags.Number(&c.Batch), Hint: "N", Help: "Requests per message, for batch and stream, or commands per pipeline, for resp and throttle; by default 100 for batch and 1 for the others. gubernator takes batches too."},
		{Name: "arrival-rate", Value: flags.Float(&c.ArrivalRate), Hint: "N", Help: "Open loop: make this many calls per second, whatever the server does, and measure latency from when each was due. 0: closed loop, as many calls as possible."},
		{Name: "poisson", Value: flags.Bool(&c.Poisson), Help: "Open loop: make calls at random times, as independent callers do, and not evenly."},
		{Name: "seed", Value: flags.Number(&c.Seed), Help: "The seed for what is random. Runs with the same seed ask the same."},
		{Name: "key-distribution", Value: flags.OneOf(&c.KeyDistribution, "uniform", "zipf", "hot", "flood"), Help: "How to choose the key of each request: uniform, zipf, hot (one key) or flood (a new key each time)."},
		{Name: "keys", Value: flags.Number(&c.Keys), Help: "How many keys there are."},
		{Name: "scenario", Value: flags.OneOf(&c.Scenario, "below", "at", "over", "several", "boundary"), Help: "The limits, if --limit is not given: the load is below the limit, at the limit (as given by --arrival-rate) or far over it; several limits; or boundary (windows of 100 ms)."},
		{Name: "strategy", Value: flags.Text(&c.Strategy), Hint: "NAME", Help: "The strategy of the scenario's limit: " + strategy.Names() + "."},
		{Name: "limit", Value: flags.Lines(&c.Limit), Hint: "RATE[,STRATEGY][,burst=N][,name=S]", Help: "A limit, such as 100/min or 10/s,token_bucket,burst=20. May be repeated. For envoy and policies, give the limits that the server is configured with; they are used to check its answers."},
		{Name: "policy", Value: flags.Text(&c.Policy), Hint: "NAME", Help: "Ask with a policy of the server instead of limits."},
		{Name: "cost", Value: flags.Number(&c.Cost), Help: "Units that each request asks for."},
		{Name: "namespace", Value: flags.Text(&c.Namespace), Hint: "NAME", Help: "The namespace, or Envoy's domain; by default a new one."},
		{Name: "descriptor-key", Value: flags.Text(&c.DescriptorKey), Help: "For envoy: the key of the descriptor entry that has the identifier as its value."},
		{Name: "start", Value: flags.Text(&c.Start), Hint: "COMMAND", Help: "Start the server with this command (words split at spaces), and stop it at the end."},
		{Name: "server-pid", Value: flags.Number(&c.ServerPID), Hint: "PID", Help: "The server's process, to measure its processor time; by default the process of this machine that listens on the port."},
		{Name: "redis-pid", Value: flags.Number(&c.RedisPID), Hint: "PID", Help: "The process of Redis, to measure its processor time."},
		{Name: "redis-port", Value: flags.Number(&c.RedisPort), Hint: "PORT", Help: "The port on which that Redis listens, instead of --redis-pid."},
		{Name: "json", Value: flags.Bool(&c.JSON), Help: "Print the report as JSON."},
		{Name: "html", Value: flags.Text(&c.HTML), Hint: "FILE", Help: "Write the report with plots to this file."},
		{Name: "quiet", Value: flags.Bool(&c.Quiet), Help: "No progress."},
	}, c.Connect.Flags()...)}
}

// runExamples are part of what "loadtest run --help" prints.
const runExamples = `Examples:

  loadtest run --start "bin/ratelimitd serve"
      How much a server on this machine can do: closed loop, unary, below the limit.

  loadtest run --target stream --batch 100 --addr 10.0.0.5:8081 --arrival-rate 2000 --html report.html
      200,000 decisions a second, on streams of batches, and the latency they see.

  loadtest run --key-distribution hot --limit 1000/s,token_bucket,burst=50
      Far over the limit of one key. Exits with 1 if more is allowed than that permits.

  loadtest run --target envoy --namespace mydomain --descriptor-key user --limit 10/s
      Any server of Envoy's protocol, whose configuration has that limit.`

// The bounds of flags.
const (
	maxDuration    = time.Hour
	maxConcurrency = 10_000
	maxConnections = 1000
	maxKeys        = 50_000_000
	maxBatch       = 1000
	maxArrivals    = 10_000_000
)

// validate checks the flags, and sets those that depend on others.
func (c *runCmd) validate() error {
	isHTTP, isRESP := target.IsHTTP(c.Target), target.IsRESP(c.Target)
	isEnvoy := c.Target == target.Envoy || c.Target == target.EnvoyHTTP || c.Target == target.LimitadorHTTP // the server knows the limits
	isBatch := c.Target == target.Batch || c.Target == target.Stream || c.Target == target.Gubernator || isRESP
	if c.Addr == "" {
		c.Addr = "127.0.0.1:8081"
		if isHTTP {
			c.Addr = "127.0.0.1:8080"
		}
		if isRESP {
			c.Addr = "127.0.0.1:6379"
		}
	}
	if host, port, err := net.SplitHostPort(c.Addr); err != nil || host == "" || port == "" {
		return fmt.Errorf("--addr %q: give host:port, such as 127.0.0.1:8081", c.Addr)
	}
	switch {
	case c.Path != "" && !isHTTP:
		return fmt.Errorf("--path %q: --target %s has no path; leave it out, or use --target http", c.Path, c.Target)
	case c.Path != "" && c.Path[0] != '/':
		return fmt.Errorf("--path %q: write it with a slash at the beginning, as in /v1/should-allow", c.Path)
	case c.Path == "" && c.Target == target.HTTP:
		c.Path = "/v1/should-allow"
	case c.Path == "" && c.Target == target.ThrottlecrabHTTP:
		c.Path = "/throttle"
	case c.Path == "" && c.Target == target.LimitadorHTTP:
		c.Path = "/check_and_report"
	case c.Path == "":
		c.Path = "/json"
	}
	switch {
	case c.Batch != 0 && !isBatch:
		return fmt.Errorf("--batch %d: --target %s has one request per message; leave it out, or use --target batch", c.Batch, c.Target)
	case c.Batch == 0 && c.Target == target.Batch:
		c.Batch = 100
	case c.Batch == 0:
		c.Batch = 1
	}
	for _, r := range []struct {
		flag             string
		value, low, high int64
	}{
		{"batch", int64(c.Batch), 1, maxBatch},
		{"concurrency", int64(c.Concurrency), 1, maxConcurrency},
		{"connections", int64(c.Connections), 1, maxConnections},
		{"streams", int64(c.Streams), 1, maxConcurrency},
		{"keys", int64(c.Keys), 1, maxKeys},
		{"count", c.Count, 0, 1e12},
		{"server-pid", int64(c.ServerPID), 0, 1 << 22},
		{"redis-pid", int64(c.RedisPID), 0, 1 << 22},
		{"redis-port", int64(c.RedisPort), 0, 65535},
	} {
		if r.value < r.low || r.value > r.high {
			return fmt.Errorf("--%s %d: give %d to %d, such as %d", r.flag, r.value, r.low, r.high, max(r.low, 1))
		}
	}
	switch {
	case c.Duration <= 0 || c.Duration > maxDuration:
		return fmt.Errorf("--duration %s: give more than 0 and at most %s, such as 10s", c.Duration, maxDuration)
	case c.Warmup < 0 || c.Warmup > maxDuration:
		return fmt.Errorf("--warmup %s: give 0s to %s, such as 1s", c.Warmup, maxDuration)
	case !(c.ArrivalRate >= 0 && c.ArrivalRate <= maxArrivals):
		return fmt.Errorf("--arrival-rate %v: give calls a second, up to %d, such as 5000; or 0 for the closed loop", c.ArrivalRate, maxArrivals)
	case c.Poisson && c.ArrivalRate == 0:
		return errors.New("--poisson: give a rate of arrivals too, such as --arrival-rate 5000")
	case c.Cost < 1 || c.Cost > 1e9:
		return fmt.Errorf("--cost %d: give 1 to 1000000000, such as 1", c.Cost)
	case c.Policy != "" && isEnvoy:
		return fmt.Errorf("--policy %q: --target %s has no policies; leave it out, and configure the limits of the server by domain and descriptor", c.Policy, c.Target)
	case len(c.Limit) > 0 && c.Strategy != "":
		return fmt.Errorf("--strategy %q: --limit is given; write the strategy there, as in --limit 100/min,%[1]s", c.Strategy)
	}
	specs := c.Limit
	if len(specs) == 0 && c.Policy == "" && !isEnvoy {
		var err error
		if specs, err = c.scenario(); err != nil {
			return err
		}
	}
	if len(specs) > strategy.MaxLimits {
		return fmt.Errorf("--limit: %d limits; give at most %d", len(specs), strategy.MaxLimits)
	}
	for _, text := range specs {
		l, err := parseLimit(text)
		if err != nil {
			return err
		}
		c.limits = append(c.limits, l)
	}
	switch c.Target {
	case target.Gubernator:
		if len(c.limits) != 1 {
			return fmt.Errorf("--target %s has one limit; give one such as --limit 100/min", c.Target)
		}
	case target.Throttle, target.Throttlecrab, target.ThrottlecrabHTTP:
		if len(c.limits) != 1 || c.limits[0].Rate.Period%time.Second != 0 {
			return fmt.Errorf("--target %s has one limit, in whole seconds; give one such as --limit 100/min,gcra,burst=10", c.Target)
		}
	}
	if c.Namespace == "" {
		c.Namespace = "loadtest-" + strconv.FormatUint(rand.Uint64(), 36)
	}
	return nil
}

// scenario returns the limits of --scenario.
func (c *runCmd) scenario() ([]string, error) {
	with := func(rate string) []string {
		if c.Strategy != "" {
			rate += "," + c.Strategy
		}
		return []string{rate}
	}
	few := c.Strategy == strategy.SlidingWindowLog.String() // servers cap its count
	switch c.Scenario {
	case "at":
		n := c.Keys
		if c.KeyDistribution == keys.Hot {
			n = 1
		}
		perKey := c.ArrivalRate * float64(c.Batch) / float64(n)
		if perKey == 0 || c.KeyDistribution != keys.Uniform && c.KeyDistribution != keys.Hot {
			return nil, errors.New("--scenario at: the limit is the rate at which each key asks, so give --arrival-rate, such as 5000, and --key-distribution uniform or hot")
		}
		return with(fmt.Sprintf("%d/m", max(int64(perKey*60*float64(c.Cost)), 1))), nil
	case "over":
		return with("10/m"), nil
	case "several":
		if c.Strategy != "" {
			return nil, fmt.Errorf("--strategy %q: --scenario several has a limit of each strategy; leave it out", c.Strategy)
		}
		return []string{"1000000/s,token_bucket", "10000000/m,sliding_window_counter", "100000000/h,fixed_window", "1000000000/d,gcra,burst=1000000"}, nil
	case "boundary":
		return with("10/100ms"), nil
	default:
		if few {
			return with("10000/s"), nil
		}
		return with("1000000000/s"), nil
	}
}

// parseLimit reads the value of a --limit flag.
func parseLimit(text string) (strategy.Limit, error) {
	refuse := func(format string, args ...any) (strategy.Limit, error) {
		return strategy.Limit{}, fmt.Errorf("--limit %q: "+format+"; write it as 100/min or 10/s,token_bucket,burst=20,name=a", append([]any{text}, args...)...)
	}
	parts := strings.Split(text, ",")
	spec := strategy.Spec{Rate: parts[0]}
	for _, part := range parts[1:] {
		key, value, isPair := strings.Cut(part, "=")
		var err error
		switch {
		case isPair && key == "burst":
			spec.Burst, err = strconv.ParseUint(value, 10, 64)
		case isPair && key == "name":
			spec.Name = value
		case isPair:
			return refuse("unknown key %q", key)
		default:
			spec.Strategy, err = strategy.Parse(part)
		}
		if err != nil {
			return refuse("%v", err)
		}
	}
	l, wrong := strategy.NewLimit(spec, strategy.DefaultMaxLogCount)
	if wrong != nil {
		return refuse("%s", wrong[0].Problem)
	}
	return l, nil
}

// asked returns the limits in the form of the API.
func asked(limits []strategy.Limit) []*ratelimitv1.Limit {
	var out []*ratelimitv1.Limit
	for _, l := range limits {
		in := &ratelimitv1.Limit{Name: l.Name, Rate: l.Rate.String(), Strategy: ratelimitv1.Strategy(l.Strategy)}
		if l.Strategy == strategy.TokenBucket || l.Strategy == strategy.LeakyBucket || l.Strategy == strategy.GCRA {
			in.Burst = uint64(l.Capacity)
		}
		out = append(out, in)
	}
	return out
}

// errWrong says that the server allowed more than the limits permit.
var errWrong = errors.New("the server allowed more than the limits permit")

// Run puts the load on the server and reports. It returns errWrong if the server allowed
// more than the limits permit.
func (c *runCmd) Run(ctx context.Context, out, progress io.Writer) error {
	if err := c.validate(); err != nil {
		return err
	}
	if c.Start != "" {
		stop, err := startServer(ctx, strings.Fields(c.Start), []string{c.Addr}, progress)
		if err != nil {
			return fmt.Errorf("--start %q: %w", c.Start, err)
		}
		defer stop()
	}
	r, err := c.measure(ctx, progress)
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(r)
	} else {
		r.Text(out)
	}
	if err == nil && c.HTML != "" {
		err = writeHTML(c.HTML, r)
	}
	switch {
	case err != nil:
		return err
	case r.Correctness.KeysOver > 0:
		return errWrong
	case r.Decisions == 0:
		return fmt.Errorf("%s at %s: %w: %s", c.Target, c.Addr, load.ErrNothing, r.FirstError)
	}
	return nil
}

func writeHTML(name string, r *report.Report) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("--html: %w; give a file that this process can write, such as report.html", err)
	}
	return errors.Join(r.HTML(f), f.Close())
}

// measure puts the load on the server and returns the report.
func (c *runCmd) measure(ctx context.Context, progress io.Writer) (*report.Report, error) {
	link, err := c.Connect.Open(os.LookupEnv)
	if err != nil {
		return nil, err
	}
	o := target.Options{
		Link: link, Protocol: c.Target, Addr: c.Addr, Path: c.Path, Connections: c.Connections, BDPProbe: c.BDPProbe, Streams: c.Streams, Sessions: c.Concurrency,
		Namespace: c.Namespace, Policy: c.Policy, DescriptorKey: c.DescriptorKey, Cost: c.Cost,
	}
	if c.Policy == "" {
		o.Limits = asked(c.limits)
	}
	to, err := target.Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	meter := c.newMeter()
	l := load.Options{
		Workers: c.Concurrency, Batch: c.Batch, Warmup: c.Warmup, Duration: c.Duration, MaxCalls: c.Count,
		Keys: keys.New(c.KeyDistribution, c.Keys), Seed: c.Seed, Limits: c.limits, Cost: c.Cost,
		Session: to.Session, Measured: meter.read,
	}
	if c.ArrivalRate > 0 {
		l.Schedule = &load.Schedule{Rate: c.ArrivalRate, Poisson: c.Poisson, Seed: c.Seed}
	}
	if !c.Quiet {
		l.Progress = func(p load.Progress) {
			state := "measuring"
			if !p.Warm {
				state = "warming up"
			}
			fmt.Fprintf(progress, "%4.0fs  %-10s  %10.0f calls/s  %d decisions, %d allowed, %d errors\n", p.Elapsed.Seconds(), state, p.CallRate, p.Decisions, p.Allowed, p.Failed)
		}
	}
	result := load.Run(ctx, l)
	r := report.New(c.Target+" at "+c.Addr, c.settings(), &result)
	r.CPU = meter.perDecision(r.Decisions)
	return r, nil
}

// settings returns the flags that say what was measured.
func (c *runCmd) settings() []string {
	out := []string{"--target=" + c.Target, fmt.Sprintf("--concurrency=%d", c.Concurrency), fmt.Sprintf("--connections=%d", c.Connections), "--key-distribution=" + c.KeyDistribution, fmt.Sprintf("--keys=%d", c.Keys)}
	if c.Target == target.Stream {
		out = append(out, fmt.Sprintf("--streams=%d", c.Streams))
	}
	if c.Batch > 1 {
		out = append(out, fmt.Sprintf("--batch=%d", c.Batch))
	}
	if c.ArrivalRate > 0 {
		out = append(out, fmt.Sprintf("--arrival-rate=%v", c.ArrivalRate))
	}
	if c.Poisson {
		out = append(out, "--poisson")
	}
	if c.Policy != "" {
		out = append(out, "--policy="+c.Policy)
	}
	for _, l := range c.limits {
		text := fmt.Sprintf("--limit=%s,%s", l.Rate, l.Strategy)
		if l.Capacity != l.Rate.Count && !l.Rate.IsUnlimited() {
			text += fmt.Sprintf(",burst=%d", l.Capacity)
		}
		out = append(out, text)
	}
	return out
}

// A meter reads the processor times of the processes involved.
type meter struct {
	pids     [3]int // client, server, Redis; 0 if not known
	readings [][3]time.Duration
}

func (c *runCmd) newMeter() *meter {
	m := &meter{pids: [3]int{os.Getpid(), c.ServerPID, c.RedisPID}}
	host, port, _ := net.SplitHostPort(c.Addr)
	if ip := net.ParseIP(host); m.pids[1] == 0 && (host == "localhost" || ip != nil && ip.IsLoopback()) {
		if number, err := strconv.Atoi(port); err == nil {
			m.pids[1], _ = cputime.Listener(number) // 0 if it cannot be found
		}
	}
	if m.pids[2] == 0 && c.RedisPort != 0 {
		m.pids[2], _ = cputime.Listener(c.RedisPort)
	}
	return m
}

func (m *meter) read() {
	var now [3]time.Duration
	for i, pid := range m.pids {
		if pid != 0 {
			var err error
			if now[i], err = cputime.Of(pid); err != nil {
				m.pids[i] = 0
			}
		}
	}
	m.readings = append(m.readings, now)
}

// perDecision returns the processor time per decision between the first and the last
// reading.
func (m *meter) perDecision(decisions int64) report.CPU {
	var out report.CPU
	if len(m.readings) < 2 || decisions == 0 {
		return out
	}
	first, last := m.readings[0], m.readings[len(m.readings)-1]
	for i, to := range []**float64{&out.Client, &out.Server, &out.Redis} {
		if m.pids[i] != 0 {
			us := float64(last[i]-first[i]) / 1000 / float64(decisions)
			*to = &us
		}
	}
	return out
}

// startPatience is how long a server may take until it accepts connections, and how long
// it may take to stop.
const startPatience = 15 * time.Second

// startServer starts a server and waits until it accepts connections on all of its addresses.
func startServer(ctx context.Context, words, addrs []string, log io.Writer) (stop func(), err error) {
	if len(words) == 0 {
		return nil, errors.New("no command; give one, such as \"bin/ratelimitd serve\"")
	}
	for _, addr := range addrs {
		if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("another process listens on %s already; stop it, or leave --start out", addr)
		}
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-ended:
		case <-time.After(startPatience):
			_ = cmd.Process.Kill()
			<-ended
		}
	}
	patience := time.NewTimer(startPatience)
	defer patience.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addrs[0])
		if err == nil {
			_ = conn.Close()
			if addrs = addrs[1:]; len(addrs) == 0 {
				return stop, nil
			}
			continue
		}
		select {
		case <-ended:
			return nil, fmt.Errorf("the server exited: %s", cmd.ProcessState)
		case <-ctx.Done():
			stop()
			return nil, ctx.Err()
		case <-patience.C:
			stop()
			return nil, fmt.Errorf("the server does not listen on %s within %s", addrs[0], startPatience)
		case <-time.After(time.Millisecond): // short, because the start-up is timed
		}
	}
}
