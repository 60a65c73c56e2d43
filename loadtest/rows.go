package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/loadtest/internal/report"
)

// triesPerRepeat bounds how often disturbed pairs are run again.
const triesPerRepeat = 4

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
		spread(figures(r.baseline, decisionRate), "%.0f"), spread(figures(r.subject, decisionRate), "%.0f"),
		spread(figures(r.baseline, serverCPU), "%.2f"), spread(figures(r.subject, serverCPU), "%.2f"), r.ratios(serverCPU),
		storeCPU(r.baseline), storeCPU(r.subject), fmt.Sprintf("%.2f", median(figures(r.subject, func(x *report.Report) float64 { return known(x.CPU.Client) }))),
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
		return fmt.Sprintf("%.2f", median(figures(runs, func(x *report.Report) float64 { return known(x.CPU.Redis) })))
	}
	return fmt.Sprintf("| %s | %.2f | %.2f | %s | %s | %s | %s | %s | %.0f |", r.name,
		median(figures(r.subject, serverCPU)), median(figures(r.baseline, serverCPU)), r.ratios(serverCPU),
		store(r.subject), store(r.baseline), micros(r.subject, p50), micros(r.baseline, p50), median(figures(r.subject, decisionRate)))
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

func serverCPU(x *report.Report) float64 { return known(x.CPU.Server) }

func p50(x *report.Report) float64 { return x.Latency.P50 }

func p99(x *report.Report) float64 { return x.Latency.P99 }

// micros shows the median of microseconds.
func micros(runs []*report.Report, f func(*report.Report) float64) string {
	return fmt.Sprintf("%.0f µs", median(figures(runs, f)))
}

// storeCPU shows the processor time of the store.
func storeCPU(runs []*report.Report) string {
	if runs[0].CPU.Redis == nil {
		return "-"
	}
	return spread(figures(runs, func(x *report.Report) float64 { return known(x.CPU.Redis) }), "%.2f")
}

func (r *row) peersLine() string {
	return fmt.Sprintf("| %s | %s | %s | %s | %s | **%s** | %s | %s | %s | %s | %s | %s | %s | %s | %.0f%% | %d |", r.name,
		spread(figures(r.baseline, decisionRate), "%.0f"), spread(figures(r.subject, decisionRate), "%.0f"),
		spread(figures(r.baseline, serverCPU), "%.2f"), spread(figures(r.subject, serverCPU), "%.2f"), r.ratios(serverCPU),
		storeCPU(r.baseline), storeCPU(r.subject),
		micros(r.baseline, p50), micros(r.subject, p50), r.ratios(p50),
		micros(r.baseline, p99), micros(r.subject, p99), r.ratios(p99),
		100*slices.Max(r.stolen), r.tries)
}

func (r *row) clientLine() string {
	both := func(x *report.Report) float64 { return known(x.CPU.Server) + known(x.CPU.Client) }
	thrift := func(x *report.Report) float64 { return 1 / both(x) }
	return fmt.Sprintf("| %s | %s | %s | %s | %s | **%s** | %s | %s | %s | %s | %s | %s | %.0f%% | %d |", r.name,
		spread(figures(r.baseline, decisionRate), "%.0f"), spread(figures(r.subject, decisionRate), "%.0f"),
		spread(figures(r.baseline, both), "%.2f"), spread(figures(r.subject, both), "%.2f"), r.ratios(thrift),
		micros(r.baseline, p50), micros(r.subject, p50), r.ratios(p50),
		micros(r.baseline, p99), micros(r.subject, p99), r.ratios(p99),
		100*slices.Max(r.stolen), r.tries)
}

func known(x *float64) float64 {
	if x == nil {
		return 0
	}
	return *x
}

func figures(all []*report.Report, f func(*report.Report) float64) []float64 {
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
