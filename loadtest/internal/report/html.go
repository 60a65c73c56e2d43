package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"number": number, "micros": micros, "cpu": cpu, "float": func(n int64) float64 { return float64(n) },
}).Parse(page))

// HTML writes the report as a page that needs no other file.
func (r *Report) HTML(w io.Writer) error {
	return pageTemplate.Execute(w, struct {
		*Report
		LatencyPlot, ThroughputPlot plot
	}{r, r.latencyPlot(), r.throughputPlot()})
}

// The sizes of the plots, in units of their view box.
const (
	plotWidth, plotHeight   = 720.0, 260.0
	plotLeft, plotBottom    = 70.0, 34.0
	plotRight, plotTop      = 34.0, 14.0
	gridLines               = 4
	decadesUnder, decadesUp = -0.1, 0.1
)

// A plot has lines, in the coordinates of its view box.
type plot struct {
	Label string
	Lines []line
	X, Y  []tick
	Right float64
}

type line struct{ Class, Name, Points string }

type tick struct {
	At    float64
	Label string
}

func across(part float64) float64 { return plotLeft + part*(plotWidth-plotLeft-plotRight) }
func up(part float64) float64     { return plotHeight - plotBottom - part*(plotHeight-plotBottom-plotTop) }

// latencyPlot shows latency by percentile. Across, each further nine of the percentile is
// as wide as the last. The latency is on a logarithmic scale.
func (r *Report) latencyPlot() plot {
	p := plot{Label: "latency by percentile", Right: plotWidth - plotRight}
	if len(r.Percentiles) == 0 {
		return p
	}
	nines := func(percentile float64) float64 { return -math.Log10(1 - percentile/100) }
	widest := max(nines(r.Percentiles[len(r.Percentiles)-1].Percentile), 1)
	low, high := math.Inf(1), math.Inf(-1)
	for _, point := range r.Percentiles {
		low, high = min(low, math.Log10(point.Micros)), max(high, math.Log10(point.Micros))
	}
	low, high = low+decadesUnder, high+decadesUp
	var points strings.Builder
	for _, point := range r.Percentiles {
		fmt.Fprintf(&points, "%.1f,%.1f ", across(nines(point.Percentile)/widest), up((math.Log10(point.Micros)-low)/(high-low)))
	}
	p.Lines = []line{{"first", "latency", points.String()}}
	for _, label := range []string{"0", "50", "90", "99", "99.9", "99.99", "99.999", "99.9999"} {
		var percentile float64
		_, _ = fmt.Sscan(label, &percentile) // no error: it is a label from above
		if n := nines(percentile); n <= widest {
			p.X = append(p.X, tick{across(n / widest), label + "%"})
		}
	}
	for i := range gridLines + 1 {
		part := float64(i) / gridLines
		p.Y = append(p.Y, tick{up(part), micros(roundTo2(math.Pow(10, low+part*(high-low))))})
	}
	return p
}

// roundTo2 rounds to two significant digits.
func roundTo2(x float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return math.Round(x/unit) * unit
}

func (r *Report) throughputPlot() plot {
	p := plot{Label: "throughput over time", Right: plotWidth - plotRight}
	if len(r.Samples) == 0 {
		return p
	}
	length, highest := r.Samples[len(r.Samples)-1].Seconds, 1.0
	for _, s := range r.Samples {
		highest = max(highest, s.DecisionsPerSecond)
	}
	highest *= 1.1
	var all, allowed strings.Builder
	for _, s := range r.Samples {
		x := across(s.Seconds / length)
		fmt.Fprintf(&all, "%.1f,%.1f ", x, up(s.DecisionsPerSecond/highest))
		fmt.Fprintf(&allowed, "%.1f,%.1f ", x, up(s.AllowedPerSecond/highest))
	}
	p.Lines = []line{{"first", "decisions", all.String()}, {"second", "allowed", allowed.String()}}
	for i := range gridLines + 1 {
		part := float64(i) / gridLines
		p.X = append(p.X, tick{across(part), fmt.Sprintf("%.1f s", part*length)})
		p.Y = append(p.Y, tick{up(part), number(roundTo2(max(part*highest, 1)))})
	}
	p.Y[0].Label = "0"
	return p
}
