package replay

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// timeLayout shows an instant with its zone, which is always UTC.
const timeLayout = "2006-01-02 15:04:05Z"

// print prints r for a person.
func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer func() { _ = w.Flush() }()
	fmt.Fprintf(w, "%d records", r.Records)
	if r.From != nil {
		fmt.Fprintf(w, " from %s to %s", r.From.Format(timeLayout), r.To.Format(timeLayout))
	}
	fmt.Fprintf(w, ", %d identifiers; %d lines not read\n", r.Identifiers, r.Unread)
	var outcomes []string
	for _, name := range slices.Sorted(maps.Keys(r.Outcomes)) {
		outcomes = append(outcomes, fmt.Sprintf("%s %d", name, r.Outcomes[name]))
	}
	if len(outcomes) > 0 {
		fmt.Fprintf(w, "requests: %s\n", strings.Join(outcomes, ", "))
	}
	r.printLimits(w)
	r.printHits(w)
	r.printChange(w)
	for _, note := range r.notes() {
		fmt.Fprintf(w, "\nnote: %s", note)
	}
	if r.notes() != nil {
		fmt.Fprintln(w)
	}
	if len(r.Lines) > 0 {
		fmt.Fprint(w, "\nNot read\n")
		for _, l := range r.Lines {
			fmt.Fprintf(w, "  %d: %s\n      %s\n", l.Count, l.Kind, l.Example)
		}
	}
}

func (r *report) printLimits(w io.Writer) {
	if len(r.Limits) == 0 {
		return
	}
	head := "\nNAMESPACE\tPOLICY\tLIMIT\tRATE\tASKED\tDENIED\tSHARE\tIDENTIFIERS\tDENIED EVER"
	if r.Change != nil {
		head += "\tBEFORE\tDENIED BEFORE"
	}
	fmt.Fprintln(w, head)
	for _, l := range r.Limits {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%d\t%d", text(l.Namespace), text(l.Policy), text(l.Limit), l.rule(), l.Asked, l.Denied, percent(l.Share), l.Identifiers, l.IdentifiersDenied)
		if r.Change != nil {
			if l.Before == nil {
				fmt.Fprint(w, "\tnone\t")
			} else {
				fmt.Fprintf(w, "\t%s\t%d", l.Before.Rate, l.Before.Denied)
			}
		}
		fmt.Fprintln(w)
	}
	if r.Goal == "" {
		return
	}
	fmt.Fprintf(w, "\nThe smallest limit that denies %s, each limit alone\n", r.Goal)
	for _, l := range r.Limits {
		s := l.Suggestion
		if s == nil {
			fmt.Fprintf(w, "  %s\tnone\n", text(l.Namespace+"/"+l.Policy+"/"+l.Limit))
			continue
		}
		burst := ""
		if s.Burst > 0 {
			burst = fmt.Sprintf(", burst: %d", s.Burst)
		}
		fmt.Fprintf(w, "  %s\t{rate: %s, strategy: %s%s}\tdenies %d requests (%s), %d identifiers\n",
			text(l.Namespace+"/"+l.Policy+"/"+l.Limit), s.Rate, s.Strategy, burst, s.Denied, percent(s.Share), s.IdentifiersDenied)
	}
}

func (r *report) printHits(w io.Writer) {
	for _, l := range r.Limits {
		if len(l.Hit) == 0 {
			continue
		}
		fmt.Fprintf(w, "\nDenied most by %s/%s/%s\nIDENTIFIER\tASKED\tDENIED\tFIRST DENIED\tLAST DENIED\tPEAK\tOVER\n", text(l.Namespace), text(l.Policy), text(l.Limit))
		for _, h := range l.Hit {
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%d\t%.1fx\n", text(h.Identifier), h.Asked, h.Denied, h.FirstDenied.Format(timeLayout), h.LastDenied.Format(timeLayout), h.Peak, h.Over)
		}
	}
}

func (r *report) printChange(w io.Writer) {
	c := r.Change
	if c == nil {
		return
	}
	fmt.Fprintf(w, "\nAgainst --current: %d requests denied before, %d now; %d denied before are allowed now, and %d allowed before are denied now\n",
		c.DeniedBefore, c.DeniedNow, c.AllowedInstead, c.DeniedInstead)
	for _, list := range []struct {
		title string
		of    *changeOf
	}{{"gain", &c.Gain}, {"lose", &c.Lose}} {
		fmt.Fprintf(w, "\n%d identifiers %s\n", list.of.Identifiers, list.title)
		if len(list.of.Most) == 0 {
			continue
		}
		fmt.Fprint(w, "NAMESPACE\tPOLICY\tIDENTIFIER\tASKED\tDENIED BEFORE\tDENIED NOW\n")
		for _, who := range list.of.Most {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\n", text(who.Namespace), text(who.Policy), text(who.Identifier), who.Asked, who.DeniedBefore, who.DeniedNow)
		}
	}
}

// notes say what a reader of the numbers should know of the log.
func (r *report) notes() []string {
	var notes []string
	add := func(n uint64, format string, args ...any) {
		if n > 0 {
			notes = append(notes, fmt.Sprintf("%d records ", n)+fmt.Sprintf(format, args...))
		}
	}
	t := &r.Times
	add(t.OutOfOrder-t.Late, "were out of order, and were put in order")
	add(t.Late, "were too late to be put in order, by up to %v: they were asked at the time of the record before them", time.Duration(t.Latest*float64(time.Second)).Round(time.Millisecond))
	add(t.StepsBack, "were more than an hour older than the one before them: a clock was set back, or files were joined in another order")
	add(t.NoZone, "do not say of which time zone their time is: it was read as that of --time-zone")
	add(t.Future, "are of a time that has not come yet")
	add(r.Others, "are of identifiers beyond --max-identifiers: they are in the numbers of requests, and not in those of identifiers")
	if r.Change != nil && r.Change.Undecided > 0 {
		add(r.Change.Undecided, "name a policy that --current does not have: they count as allowed before")
	}
	return notes
}

// rule shows the rate of a limit with its strategy and burst.
func (l *limitReport) rule() string {
	rule := l.Rate
	if l.Strategy != "fixed_window" {
		rule += " " + l.Strategy
	}
	if l.Burst > 0 {
		rule += " burst " + strconv.FormatInt(l.Burst, 10)
	}
	if l.Shadow {
		rule += " (shadow)"
	}
	return rule
}

func percent(f float64) string { return strconv.FormatFloat(f*100, 'f', 3, 64) + " %" }

// text shows a name, which whoever sent requests may have chosen, on a terminal.
func text(name string) string {
	if quoted := quote.Cut(name); len(quoted) != len(name)+2 {
		return quoted
	}
	return name
}
