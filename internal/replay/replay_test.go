package replay

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const policies = `namespaces:
  web:
    exempt: ["10.0.0.9"]
    policies:
      default:
        limits:
          - {name: second, rate: 5/s, strategy: token_bucket, burst: 10}
          - {name: minute, rate: 60/min}
        overrides:
          - {identifiers: ["192.168.*"], limits: [{name: minute, rate: 600/min}]}
`

// start is when the logs of these tests begin.
var start = time.Date(2026, 9, 21, 14, 0, 0, 0, time.UTC)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// replay runs the command with flags and returns what it prints.
func replay(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	p := &command.Program{Name: "ratelimitd", Commands: []*command.Command{Command()}}
	err = p.Run(t.Context(), append([]string{"replay"}, args...), &out, &errs)
	return out.String(), errs.String(), err
}

// replayed runs the command with --json and returns its report.
func replayed(t *testing.T, args ...string) *report {
	t.Helper()
	out, errs, err := replay(t, append([]string{"--json"}, args...)...)
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return &r
}

// combined is a line of nginx.
func combined(at time.Time, ip string) string {
	return fmt.Sprintf("%s - - [%s] \"GET /items HTTP/1.1\" 200 512 \"-\" \"curl\"\n", ip, at.Format("02/Jan/2006:15:04:05 -0700"))
}

// abused is an hour of a log with 50 callers, and an abuser from the 20th minute on, who asks
// 10 times a second.
func abused() string {
	var b strings.Builder
	for second := range 3600 {
		at := start.Add(time.Duration(second) * time.Second)
		b.WriteString(combined(at, fmt.Sprintf("198.51.100.%d", second%50)))
		if second >= 1200 {
			for range 10 {
				b.WriteString(combined(at, "203.0.113.7"))
			}
		}
	}
	return b.String()
}

// TestAbuser finds a planted abuser, since when it asks too much, and which limits would stop
// nobody else.
func TestAbuser(t *testing.T) {
	config, log := write(t, "new.yaml", policies), write(t, "access.log", abused())
	r := replayed(t, "--config", config, "--suggest", "identifiers=0", log)
	if r.Records != 3600+24000 || r.Unread != 0 || r.Identifiers != 51 || len(r.Limits) != 2 {
		t.Fatalf("%+v", r)
	}
	minute := r.Limits[0]
	if minute.Limit != "minute" || minute.IdentifiersDenied != 1 || minute.Identifiers != 51 || minute.Asked != 27600 {
		t.Errorf("%+v", minute)
	}
	hit := minute.Hit[0]
	// 10 tokens and 5 a second let 60 pass in the 11th second of each minute, or the 12th.
	if want := start.Add(20*time.Minute + 10*time.Second); hit.Identifier != "203.0.113.7" || !hit.FirstDenied.Equal(want) || hit.Peak != 600 || hit.Over != 10 {
		t.Errorf("%+v, want the first denial at %v", hit, want)
	}
	if first := r.Limits[1].Hit[0].FirstDenied; !first.Equal(start.Add(20*time.Minute + time.Second)) {
		t.Errorf("the limit of a second denies first at %v", first)
	}
	if s := minute.Suggestion; s == nil || s.Rate != "600/1m" || s.Denied != 0 {
		t.Errorf("suggested %+v, want 600/1m", s)
	}
	if s := replayed(t, "--config", config, "--suggest", "identifiers=1", log).Limits[0].Suggestion; s.Rate != "2/1m" || s.IdentifiersDenied != 1 {
		t.Errorf("suggested %+v, want 2/1m, as all others ask at most 2 in a minute", s)
	}
	// Of 27600 requests, 10 % are 2760; of the 600 in each of 40 minutes, 69 each.
	if s := replayed(t, "--config", config, "--suggest", "p=10%", log).Limits[0].Suggestion; s.Rate != "531/1m" || s.Denied != 40*69 {
		t.Errorf("suggested %+v, want 531/1m", s)
	}
}

func TestCompare(t *testing.T) {
	log := write(t, "access.log", abused())
	larger := strings.ReplaceAll(strings.ReplaceAll(policies, "60/min", "120/min"), "5/s", "50/s")
	c := replayed(t, "--config", write(t, "new.yaml", policies), "--current", write(t, "old.yaml", larger), log).Change
	if c.DeniedBefore != 40*480 || c.DeniedNow != 40*540 || c.AllowedInstead != 0 || c.DeniedInstead != 40*60 {
		t.Errorf("%+v", c)
	}
	if c.Gain.Identifiers != 0 || c.Lose.Identifiers != 1 || c.Lose.Most[0].Identifier != "203.0.113.7" {
		t.Errorf("%+v", c)
	}
	c = replayed(t, "--config", write(t, "new.yaml", larger), "--current", write(t, "old.yaml", policies), log).Change
	if c.AllowedInstead != 40*60 || c.DeniedInstead != 0 || c.Gain.Identifiers != 1 || c.Lose.Identifiers != 0 {
		t.Errorf("%+v", c)
	}
}

// prepared returns the run of a command line.
func prepared(t testing.TB, args ...string) *run {
	t.Helper()
	s := newSettings()
	line, rest, err := s.set.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.prepare(command.Call{Line: line, Args: rest, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// startDaemon runs a daemon with flags until the test ends, and returns a connection to it.
// Its store has the time of clock.
func startDaemon(t *testing.T, clock *atomic.Int64, args ...string) *grpc.ClientConn {
	t.Helper()
	line, _, err := config.Default().Flags().Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	c, p, err := config.Read(line, noVariables)
	if err != nil {
		t.Fatal(err)
	}
	memoryOptions := c.MemoryOptions()
	memoryOptions.Now = func() strategy.Instant { return strategy.Instant(clock.Load()) }
	counters, err := memory.New(memoryOptions)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Options{
		GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", LogLevel: new(slog.LevelVar),
		Store: counters, StoreName: "memory", Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
		Config: server.ConfigOf(p), Envoy: envoyapi.SettingsOf(&c.Envoy),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// ofAll has a policy of each strategy, of calendars, of shadow mode and of several limits.
const ofAll = policies + `      window: {limits: [{rate: 30/min}]}
      smooth: {limits: [{rate: 30/min, strategy: sliding_window_counter}]}
      log: {limits: [{rate: 30/min, strategy: sliding_window_log}]}
      leaky: {limits: [{rate: 10/min, strategy: leaky_bucket, burst: 5}]}
      spaced: {limits: [{rate: 2/s, strategy: gcra, burst: 3}]}
      day: {limits: [{rate: 20/day, time_zone: America/St_Johns}]}
      month: {limits: [{rate: 20/month, time_zone: Asia/Kathmandu, anchor_day: 22}]}
      none: {limits: [{rate: unlimited}]}
      shadow: {shadow: true, limits: [{rate: 10/min}]}
      several: {limits: [{rate: 5/s}, {name: slow, rate: 20/min, strategy: gcra, burst: 20}, {rate: 1000/day}]}
`

// TestLikeDaemon decides what a daemon decides that is asked the same over gRPC, one by one,
// and whose clock stands at each record's time.
func TestLikeDaemon(t *testing.T) {
	const records = 6000
	file := write(t, "new.yaml", ofAll)
	names := []string{"default", "default", "window", "smooth", "log", "leaky", "spaced", "day", "month", "none", "shadow", "several"}
	random := rand.New(rand.NewPCG(1, 2))
	var log strings.Builder
	log.WriteString("time,ip,policy,cost\n")
	// A day of St. John's begins on the way, and a month of Kathmandu.
	at := start.Add(12*time.Hour + 29*time.Minute).UnixMicro()
	for i := range records {
		if i == records/2 {
			at = start.Add(28 * time.Hour).UnixMicro()
		}
		at += random.Int64N(100_000) / 50_000 * 20_000 // some are of one instant
		ip := fmt.Sprintf("10.0.0.%d", random.IntN(12))
		if random.IntN(4) == 0 {
			ip = fmt.Sprintf("192.168.0.%d", random.IntN(3))
		}
		fmt.Fprintf(&log, "%d,%s,%s,%d\n", at, ip, names[random.IntN(len(names))], random.IntN(4))
	}
	r := prepared(t, "--config", file, "--namespace", "web", "--policy", "{policy}", "--cost", "{cost}", write(t, "log.csv", log.String()))
	var clock atomic.Int64
	daemon := ratelimitv1.NewRateLimitServiceClient(startDaemon(t, &clock, "--config", file))
	reasons := map[ratelimitv1.Reason]decide.Outcome{
		ratelimitv1.Reason_WITHIN_LIMIT: decide.Allowed, ratelimitv1.Reason_OVER_LIMIT: decide.Denied, ratelimitv1.Reason_EXEMPT: decide.Exempt,
		ratelimitv1.Reason_UNLIMITED: decide.Unlimited, ratelimitv1.Reason_SHADOW: decide.Shadowed,
	}
	denied := map[string]int{}
	outcomes := map[decide.Outcome]int{}
	n := 0
	r.watch = func(e event, got []decide.Outcome) {
		clock.Store(e.at)
		answer, err := daemon.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "web", Policy: e.who.Policy, Identifier: e.who.Identifier, Cost: &e.cost})
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := reasons[answer.GetReason()]; !ok || got[0] != want {
			t.Errorf("record %d, %s at %d: %v, and a daemon says %v", n, e.who.Identifier, e.at, got[0], answer)
		}
		if outcomes[got[0]]++; got[0] == decide.Denied {
			denied[e.who.Policy]++
		}
		n++
	}
	if err := r.do(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if denied[name] == 0 && name != "none" && name != "shadow" {
			t.Errorf("policy %s denies nothing", name)
		}
	}
	if n != records || outcomes[decide.Unlimited] < 100 || outcomes[decide.Shadowed] < 100 || outcomes[decide.Allowed] < 100 || outcomes[decide.Denied] < 100 || outcomes[decide.Exempt] < 100 {
		t.Errorf("%d decisions: %v", n, outcomes)
	}
}

// TestOrder merges files by time, whatever the order of their lines is.
func TestOrder(t *testing.T) {
	config := write(t, "new.yaml", policies)
	whole := abused()
	want := replayed(t, "--config", config, write(t, "whole.log", whole))
	lines := strings.SplitAfter(strings.TrimSuffix(whole, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	var odd, even strings.Builder
	for i, line := range lines {
		if i%2 == 0 {
			even.WriteString(line)
		} else {
			odd.WriteString(line)
		}
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write([]byte(odd.String())); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	shuffled := append([]string(nil), lines...)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	half := len(lines) / 2
	for name, files := range map[string][]string{
		"two at once": {write(t, "empty.log", ""), write(t, "even.log", even.String()), write(t, "odd.log", zipped.String())},
		"rotated":     {write(t, "access.log", strings.Join(lines[half:], "")), write(t, "access.log.1", strings.Join(lines[:half], ""))},
		"shuffled":    {write(t, "shuffled.log", strings.Join(shuffled, ""))},
	} {
		got := replayed(t, append([]string{"--config", config}, files...)...)
		if a, b := fmt.Sprintf("%+v", got.Limits), fmt.Sprintf("%+v", want.Limits); a != b || got.Times.Late != 0 || (got.Times.OutOfOrder > 0) != (name == "shuffled") {
			t.Errorf("%s: %s, %+v, want %s", name, a, got.Times, b)
		}
	}
}

// TestClocks says what is odd about times, and goes on.
func TestClocks(t *testing.T) {
	var log strings.Builder
	log.WriteString(combined(start.AddDate(100, 0, 0), "192.0.2.1")) // a clock that was wrong
	for i := range 2 * reorderRecords {
		log.WriteString(combined(start.Add(time.Duration(i)*time.Second), "192.0.2.1"))
	}
	log.WriteString(combined(start.Add(time.Second), "192.0.2.2")) // much too late
	out, _, err := replay(t, "--config", write(t, "new.yaml", policies), write(t, "access.log", log.String()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1 records were too late to be put in order, by up to", "2 records were more than an hour older", "records are of a time that has not come yet", "131074 records from 2026-09-21 14:00:00Z to 2126-09-21 14:00:00Z"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in %s", want, out)
		}
	}
}

// TestUnread counts lines that cannot be read, and shows one of each kind.
func TestUnread(t *testing.T) {
	log := combined(start, "192.0.2.1") + combined(start, "-") + "hello\x1b[31m\n\nhello\n" + combined(start, "192.0.2.\xff") +
		combined(start, strings.Repeat("x", 2000)) + strings.Repeat("y", 2<<20) + "\n" + combined(start, "192.0.2.1")
	path := write(t, "access.log", log)
	r := replayed(t, "--config", write(t, "new.yaml", policies), "--format", "combined", path)
	if r.Records != 2 || r.Unread != 6 {
		t.Errorf("%d records, %d unread", r.Records, r.Unread)
	}
	got := map[string]uint64{}
	for _, l := range r.Lines {
		got[l.Kind] = l.Count
		if l.Kind == "not of the format" && l.Example != path+`:3: hello\x1b[31m` && !strings.HasPrefix(l.Example, path+":3: hello") || strings.Contains(l.Example, "\x1b") {
			t.Errorf("%q", l.Example)
		}
	}
	for _, kind := range []string{"no client_address", "a name that is not UTF-8", "an identifier that is too long", "longer than 1 MiB"} {
		if got[kind] != 1 {
			t.Errorf("%d lines of %s: %v", got[kind], kind, got)
		}
	}
}

// TestWindows reads a log of Windows, with a byte order mark and other ends of lines.
func TestWindows(t *testing.T) {
	log := "\ufeff" + strings.ReplaceAll(strings.Repeat(combined(start, "192.0.2.1"), 3), "\n", "\r\n")
	if r := replayed(t, "--config", write(t, "new.yaml", policies), write(t, "access.log", log)); r.Records != 3 || r.Identifiers != 1 || r.Unread != 0 {
		t.Errorf("%+v", r)
	}
}

// packed returns text as gzip packs it.
func packed(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBounded remembers no more identifiers than it may.
func TestBounded(t *testing.T) {
	var log strings.Builder
	for i := range 3000 {
		log.WriteString(combined(start.Add(time.Duration(i)*time.Millisecond), fmt.Sprintf("192.0.%d.%d", i/250, i%250)))
	}
	r := replayed(t, "--config", write(t, "new.yaml", policies), "--max-identifiers", "100", "--suggest", "p=1%", write(t, "access.log", log.String()))
	if r.Records != 3000 || r.Identifiers != 100 || r.Others != 2900 || r.Limits[0].Asked != 3000 || r.Limits[0].Identifiers != 100 {
		t.Errorf("%+v", r)
	}
}

func TestHTML(t *testing.T) {
	html := filepath.Join(t.TempDir(), "report.html")
	log := abused() + combined(start, "</script><b>") + "nonsense\n"
	if _, errs, err := replay(t, "--config", write(t, "new.yaml", policies), "--html", html, write(t, "access.log", log)); err != nil {
		t.Fatal(err, errs)
	}
	page, err := os.ReadFile(html)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	if strings.Count(text, "</script>") != 2 || strings.Contains(text, "unsafe-inline") || strings.Contains(text, dataMark) || !strings.Contains(text, `"identifier":"203.0.113.7"`) {
		t.Errorf("%d bytes", len(text))
	}
	for _, outside := range []string{"http://", "https://", "src=", "@import"} {
		if strings.Contains(strings.ReplaceAll(text, "http://www.w3.org/2000/svg", ""), outside) {
			t.Errorf("the page has %s", outside)
		}
	}
}

func TestWrong(t *testing.T) {
	config, log := write(t, "new.yaml", policies), write(t, "access.log", abused())
	two := write(t, "two.yaml", policies+"  api: {policies: {default: {limits: [{rate: 1/s}]}}}\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{log}, "--config is missing; write --config=FILE, or --envoy-config-dir=DIR"},
		{[]string{"--config", two, log}, "--namespace is missing: " + two + " has api, web; write --namespace=api"},
		{[]string{"--config", config, "--policy", "search", log}, `--policy "search": ` + config + " has default"},
		{[]string{"--config", config, "--suggest", "5", log}, `--suggest "5": write p=0.1%`},
		{[]string{"--config", config, "--identifier", "{user", log}, `--identifier "{user": a field is a name in braces`},
		{[]string{"--config", config, "--cost", "x", log}, `--cost "x": write a whole number`},
		{[]string{"--config", config, write(t, "b.log", "hello\n")}, `its format is not known: the first line is "hello"`},
		{[]string{"--config", config, write(t, "c.log", "")}, "it has no lines"},
		{[]string{"--config", config, "--time-zone", "Mars", log}, `--time-zone "Mars": write a zone such as`},
		{[]string{"--config", config, "--html", "none/report.html", log}, `--html "none/report.html": there is no folder "none"`},
		{[]string{"--config", config, write(t, "cut.gz", string(packed(t, abused())[:5000]))}, "cut.gz: line "},
		{[]string{"--config", config, write(t, "cut.gz", string(packed(t, abused())[:5000]))}, "gzip: unexpected EOF"},
		{[]string{"--config", config, "-", "-"}, "standard input can be read once"},
		{[]string{"--config", config, "missing.log"}, "no such file"},
	} {
		if _, _, err := replay(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %s", c.args, err, c.want)
		}
	}
}

// BenchmarkReplay replays logs of a million records of up to 50,000 clients with some numbers of
// lanes: all clients ask as often, or by Zipf's law, as clients mostly do. Beside it, it reads the
// lines and no more.
func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	config, log := filepath.Join(dir, "new.yaml"), filepath.Join(dir, "access.log")
	if err := os.WriteFile(config, []byte("namespaces: {web: {policies: {default: {limits: [{rate: 100/min}]}}}}"), 0o600); err != nil {
		b.Fatal(err)
	}
	const records, clients = 1_000_000, 50_000
	random := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(random, 1.01, 1, clients-1)
	var text bytes.Buffer
	for _, of := range []struct {
		name   string
		client func() uint64
	}{{"uniform", func() uint64 { return random.Uint64N(clients) }}, {"zipf", zipf.Uint64}} {
		text.Reset()
		for i := range records {
			c := of.client() * 7919 % clients // whose numbers are not in the order of how often they ask
			text.WriteString(combined(start.Add(time.Duration(i)*time.Second/500), fmt.Sprintf("10.%d.%d.%d", c>>16, c>>8&255, c&255)))
		}
		if err := os.WriteFile(log, text.Bytes(), 0o600); err != nil {
			b.Fatal(err)
		}
		for _, lanes := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("%s/lanes=%d", of.name, lanes), func(b *testing.B) {
				for b.Loop() {
					r := prepared(b, "--config", config, log)
					r.lanes = lanes
					if err := r.do(b.Context()); err != nil {
						b.Fatal(err)
					}
					r.close()
				}
				b.ReportMetric(float64(records*b.N)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
	b.Run("lines", func(b *testing.B) {
		for b.Loop() {
			in, err := accesslog.NewBlocks(bytes.NewReader(text.Bytes()))
			var block accesslog.Block
			for err == nil {
				block, err = in.Next(block.Bytes)
			}
			if in.Number != records {
				b.Fatal(in.Number, err)
			}
		}
		b.ReportMetric(float64(records*b.N)/b.Elapsed().Seconds(), "records/s")
	})
}

// TestDocs runs the examples of docs/replay.md, and prints what the page says.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/replay.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	t.Chdir(t.TempDir())
	block := func(language string) []string {
		var all []string
		for _, part := range strings.Split(page, "\n```"+language+"\n")[1:] {
			text, _, _ := strings.Cut(part, "```")
			all = append(all, text)
		}
		return all
	}
	config := block("yaml")[0]
	if err := os.Mkdir("limits", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"new.yaml": config, "old.yaml": strings.ReplaceAll(config, "60/min", "120/min"), "access.log": abused(),
		"app.json":    `{"when":1790000000,"time":1790000000,"client_address":"192.0.2.7","path":"/login","auth":{"api_key":"k"}}` + "\n",
		"routes.yaml": block("yaml")[1], filepath.Join("limits", "edge.yaml"): edge,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var printed []string
	for _, line := range block("sh") {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " | jq")
		args := strings.Fields(strings.ReplaceAll(strings.TrimPrefix(line, "ratelimitd replay "), "'", ""))
		out, errs, err := replay(t, args...)
		if err != nil || strings.HasPrefix(out, "0 records") {
			t.Errorf("%s: %v, %s%s", line, err, out, errs)
		}
		printed = append(printed, out)
	}
	_, want, _ := strings.Cut(page, "```\n27600")
	if want, _, _ = strings.Cut(want, "```"); printed[0] != "27600"+want {
		t.Errorf("the first example prints\n%s, and the page says\n27600%s", printed[0], want)
	}
	if len(printed) < 8 {
		t.Errorf("only %d examples are there", len(printed))
	}
}
