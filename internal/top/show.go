package top

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ratelimitd/ratelimitd/internal/account"
)

// A line is one of those that are shown.
type line struct {
	text  string
	title bool
}

// A space is how much room there is: so many lines, of so many characters. 0: any number.
type space struct{ rows, columns int }

// fewRows are too few for all tables: then there is who is denied, by which limit, alone.
const fewRows = 18

// Show writes v as text for people.
func (v *View) Show(w io.Writer) error {
	var b strings.Builder
	for _, l := range v.lines(space{}) {
		b.WriteString(l.text + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lines returns what is shown of v where there is room for it.
func (v *View) lines(room space) []line {
	lines := []line{{text: v.rates()}, {text: v.calls()}, {text: v.store()}, {text: v.memory()}, {text: v.locks()}}
	tables := []table{v.namespaces(), v.limits(), v.asked(), v.denied(room.columns)}
	if room.rows > 0 && room.rows < fewRows {
		lines, tables = lines[:2], []table{v.limits(), v.denied(room.columns)}
	}
	between := 1 // empty lines before each table
	if room.rows > 0 {
		most := room.rows - len(lines) - len(tables)
		if most < 6*len(tables) {
			between = 0
			most-- // as one is before the first
		}
		share(tables, most-between*len(tables))
	}
	for i, t := range tables {
		if between > 0 || i == 0 {
			lines = append(lines, line{})
		}
		lines = append(lines, line{text: t.title, title: true})
		for _, text := range t.rows {
			lines = append(lines, line{text: text})
		}
	}
	for i := range lines {
		lines[i].text = cut(lines[i].text, room.columns)
	}
	if room.rows > 0 {
		lines = lines[:min(len(lines), room.rows)]
	}
	return lines
}

// A table is a list with a title.
type table struct {
	title string
	rows  []string
}

// share cuts tables so that all have room lines together. What one does not need the
// others get.
func share(tables []table, room int) {
	given := make([]int, len(tables))
	for more := true; more; {
		more = false
		for i := len(tables) - 1; i >= 0; i-- { // who is denied is of most interest
			if room > 0 && given[i] < len(tables[i].rows) {
				given[i]++
				room--
				more = true
			}
		}
	}
	for i := range tables {
		tables[i].rows = tables[i].rows[:given[i]]
	}
}

func (v *View) rates() string {
	share := 0.0
	if v.Decisions > 0 {
		share = 100 * v.Denied / v.Decisions
	}
	return fmt.Sprintf("decisions %s/s  denied %s/s (%.1f %%)  failed %s/s  invalid %s/s",
		number(v.Decisions), number(v.Denied), share, number(v.Failed), number(v.Refused))
}

func (v *View) calls() string {
	return fmt.Sprintf("calls     %s/s  p50 %s  p99 %s", number(v.Calls), duration(v.P50), duration(v.P99))
}

func (v *View) store() string {
	return fmt.Sprintf("store     %s errors/s  %.0f servers given up  %s denials/s from memory", number(v.StoreErrors), v.ServersGone, number(v.DenyCacheHits))
}

func (v *View) memory() string {
	return fmt.Sprintf("memory    %s counters  %s live ones evicted/s", number(v.Keys), number(v.Evictions))
}

func (v *View) locks() string {
	return fmt.Sprintf("locks     %.2f %% had to wait, %s/s  hottest stripe %.1f x the mean", 100*v.LockContended, duration(v.LockWait), v.HottestShare)
}

func (v *View) namespaces() table {
	t := table{title: fmt.Sprintf("%9s %9s  NAMESPACE", "asked/s", "denied/s")}
	for _, ns := range v.Namespaces {
		t.rows = append(t.rows, fmt.Sprintf("%9s %9s  %s", number(ns.Decisions), number(ns.Denied), printable(ns.Name)))
	}
	return t
}

func (v *View) limits() table {
	t := table{title: fmt.Sprintf("%9s %9s  LIMIT THAT DENIES", "asked/s", "denied/s")}
	for _, l := range v.Limits {
		t.rows = append(t.rows, fmt.Sprintf("%9s %9s  %s  %s", number(l.Asked), number(l.Denied), printable(l.Namespace), printable(nameOf(l.Policy, l.Limit))))
	}
	return t.orNone("none")
}

func (v *View) asked() table {
	t := table{title: fmt.Sprintf("%9s %9s  WHO ASKS MOST", "asked/s", "")}
	for _, k := range v.Asked {
		t.rows = append(t.rows, fmt.Sprintf("%9s %9s  %s", number(k.PerSecond), "", who(k)))
	}
	return t.orNone("nobody stands out")
}

func (v *View) denied(columns int) table {
	const title = "WHO IS DENIED MOST"
	width := len(title)
	for _, k := range v.DeniedMost {
		width = max(width, utf8.RuneCountInString(who(k)))
	}
	if columns > 0 { // the limit has a third of the line
		width = min(width, max(len(title), (columns-21)*2/3))
	}
	t := table{title: fmt.Sprintf("%9s %9s  %-*s  BY", "", "denied/s", width, title)}
	for _, k := range v.DeniedMost {
		t.rows = append(t.rows, fmt.Sprintf("%9s %9s  %-*s  %s", "", number(k.PerSecond), width, cut(who(k), width), printable(nameOf(k.Policy, k.Limit))))
	}
	return t.orNone("nobody stands out")
}

func (t table) orNone(text string) table {
	if t.rows == nil {
		t.rows = []string{fmt.Sprintf("%9s %9s  %s", "", "", text)}
	}
	return t
}

func who(k account.Key) string { return printable(k.Namespace) + "  " + printable(k.Identifier) }

// nameOf returns what people call a limit of a policy.
func nameOf(policy, limit string) string {
	switch {
	case policy == "" && limit == "":
		return "limits that requests bring along"
	case policy == "":
		return limit
	case limit == "":
		return policy
	default:
		return policy + "/" + limit
	}
}

// cut returns text, of which it leaves out the end if it has more characters than width.
func cut(text string, width int) string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	const more = "..."
	return string([]rune(text)[:max(0, width-len(more))]) + more[:min(len(more), width)]
}

// number returns n in about five characters.
func number(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.2fM", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1fk", n/1e3)
	case n >= 10 || n == 0:
		return fmt.Sprintf("%.0f", n)
	default:
		return fmt.Sprintf("%.2f", n)
	}
}

// duration returns seconds with three digits.
func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	for unit := time.Second; unit > time.Nanosecond; unit /= 10 {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// maxShown is how many characters of a name are shown.
const maxShown = 60

// printable returns a name without control characters: callers choose names, and
// must not control the operator's terminal.
func printable(name string) string {
	name = cut(name, maxShown)
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}
