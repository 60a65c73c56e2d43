// Package report writes what a run measured, as text, JSON or HTML.
package report

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/loadtest/internal/load"
)

// A Report has what a run measured. Its JSON form is for programs.
type Report struct {
	Title    string   `json:"title"`
	Settings []string `json:"settings"` // as flags

	Seconds            float64 `json:"seconds"`
	Calls              int64   `json:"calls"`
	CallsPerSecond     float64 `json:"calls_per_second"`
	Decisions          int64   `json:"decisions"`
	DecisionsPerSecond float64 `json:"decisions_per_second"`
	Allowed            int64   `json:"allowed"`
	Denied             int64   `json:"denied"`
	StoreFailures      int64   `json:"store_failures"`
	Errors             int64   `json:"errors"`
	FirstError         string  `json:"first_error,omitempty"`
	Unsent             int64   `json:"unsent"`

	Latency     Latency          `json:"latency_us"`
	CPU         CPU              `json:"cpu_us_per_decision"`
	Correctness load.Correctness `json:"correctness"`

	Percentiles []Point       `json:"percentiles"`
	Samples     []load.Sample `json:"samples"`
}

// Latency is the latency of calls, in microseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// CPU is the processor time per decision, in microseconds. It is nil where the process is
// not known.
type CPU struct {
	Client *float64 `json:"client"`
	Server *float64 `json:"server"`
	Redis  *float64 `json:"redis"`
}

// A Point is one point of the curve of latency by percentile.
type Point struct {
	Percentile float64 `json:"percentile"`
	Micros     float64 `json:"us"`
}

// New returns the report of a result.
func New(title string, settings []string, r *load.Result) *Report {
	seconds := max(r.Elapsed.Seconds(), 1e-9)
	micros := func(percentile float64) float64 {
		return float64(r.Latency.ValueAtQuantile(percentile)) / 1000
	}
	out := &Report{
		Title: title, Settings: settings,
		Seconds: seconds, Calls: r.Calls, CallsPerSecond: float64(r.Calls) / seconds,
		Decisions: r.Decisions, DecisionsPerSecond: float64(r.Decisions) / seconds,
		Allowed: r.Allowed, Denied: r.Denied, StoreFailures: r.StoreFail, Errors: r.Failed, Unsent: r.Unsent,
		Latency:     Latency{micros(50), micros(90), micros(99), micros(99.9), float64(r.Latency.Max()) / 1000},
		Correctness: r.Correctness, Samples: r.Samples,
	}
	if r.FirstErr != nil {
		out.FirstError = r.FirstErr.Error()
	}
	// Go on while there are enough calls to tell one point from the next.
	for beyond := 1.0; beyond*float64(r.Latency.TotalCount()) >= 1; beyond /= math.Pow(10, 0.1) {
		out.Percentiles = append(out.Percentiles, Point{100 * (1 - beyond), micros(100 * (1 - beyond))})
	}
	return out
}

// Text writes the report as text for people.
func (r *Report) Text(w io.Writer) {
	fmt.Fprintf(w, "%s\n  %s\n\n", r.Title, strings.Join(r.Settings, " "))
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-12s "+format+"\n", append([]any{name}, args...)...)
	}
	line("calls", "%s in %.1f s: %s/s", number(float64(r.Calls)), r.Seconds, number(r.CallsPerSecond))
	line("decisions", "%s: %s/s; %s allowed, %s denied", number(float64(r.Decisions)), number(r.DecisionsPerSecond), number(float64(r.Allowed)), number(float64(r.Denied)))
	if r.StoreFailures > 0 {
		line("store", "failed: %s decisions are of the failure policy", number(float64(r.StoreFailures)))
	}
	if r.Errors > 0 {
		line("errors", "%s; the first: %s", number(float64(r.Errors)), r.FirstError)
	}
	if r.Unsent > 0 {
		line("unsent", "%s calls were due and all workers were waiting: they are in the latency with the time until the end", number(float64(r.Unsent)))
	}
	l := r.Latency
	line("latency", "p50 %s  p90 %s  p99 %s  p99.9 %s  max %s", micros(l.P50), micros(l.P90), micros(l.P99), micros(l.P999), micros(l.Max))
	line("CPU", "a decision: client %s, server %s, Redis %s", cpu(r.CPU.Client), cpu(r.CPU.Server), cpu(r.CPU.Redis))
	line("correctness", "%s", r.Verdict())
}

// Verdict says whether the server kept to the limits.
func (r *Report) Verdict() string {
	c := r.Correctness
	switch {
	case !c.Checked:
		return "not checked: the limit is not known, or every key was asked once"
	case c.KeysOver > 0:
		return fmt.Sprintf("WRONG: %s of %s keys were allowed %s units more than the limits permit", number(float64(c.KeysOver)), number(float64(c.Keys)), number(float64(c.UnitsOver)))
	default:
		permitted := number(float64(c.Permitted))
		if c.Permitted > 1<<62 {
			permitted = "no bound"
		}
		return fmt.Sprintf("right: %s units allowed to %s keys, the limits permit %s", number(float64(c.Allowed)), number(float64(c.Keys)), permitted)
	}
}

func cpu(us *float64) string {
	if us == nil {
		return "(not known)"
	}
	return fmt.Sprintf("%.2f µs", *us)
}

func micros(us float64) string { return time.Duration(us * 1000).Round(100 * time.Nanosecond).String() }

// number writes a number with its digits in groups: 1_234_567.
func number(x float64) string {
	digits := fmt.Sprintf("%.0f", x)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "_" + digits[i:]
	}
	return digits
}
