package top

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/ratelimitd/ratelimitd/internal/account"
)

// Show writes v as text for people.
func (v *View) Show(w io.Writer) error {
	share := 0.0
	if v.Decisions > 0 {
		share = 100 * v.Denied / v.Decisions
	}
	var b strings.Builder
	fmt.Fprintf(&b, "decisions %s/s   denied %s/s (%.1f %%)   by the failure policy %s/s   refused %s/s\n",
		number(v.Decisions), number(v.Denied), share, number(v.Failed), number(v.Refused))
	fmt.Fprintf(&b, "calls     %s/s   p50 %s   p99 %s\n", number(v.Calls), duration(v.P50), duration(v.P99))
	fmt.Fprintf(&b, "store     %s errors/s   %.0f servers given up   %s denials/s from memory\n", number(v.StoreErrors), v.ServersGone, number(v.DenyCacheHits))
	fmt.Fprintf(&b, "memory    %s counters   %s live ones evicted/s\n", number(v.Keys), number(v.Evictions))
	fmt.Fprintf(&b, "locks     %.2f %% had to wait, %s a second   the hottest stripe is taken %.1f x the mean\n\n", 100*v.LockContended, duration(v.LockWait), v.HottestShare)

	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "asked/s\tdenied/s\t  NAMESPACE")
	for _, ns := range v.Namespaces {
		fmt.Fprintf(t, "%s\t%s\t  %s\n", number(ns.Decisions), number(ns.Denied), printable(ns.Name))
	}
	for _, list := range []struct {
		title string
		keys  []account.Key
	}{{"asked/s\t\t  WHO ASKS MOST", v.Asked}, {"denied/s\t\t  WHO IS DENIED MOST", v.DeniedMost}} {
		fmt.Fprintf(t, "\t\t\n%s\n", list.title)
		if len(list.keys) == 0 {
			fmt.Fprint(t, "\t\t  nobody stands out\n")
		}
		for _, k := range list.keys {
			fmt.Fprintf(t, "%s\t\t  %s  %s\n", number(k.PerSecond), printable(k.Namespace), printable(k.Identifier))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
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
	if r := []rune(name); len(r) > maxShown {
		name = string(r[:maxShown]) + "..."
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}
