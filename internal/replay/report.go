package replay

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
)

// maxBins is how many bins the distribution of demand has: four for each doubling.
const maxBins = 160

// A report is what a replay has found. Its JSON is the output of --json.
type report struct {
	Records uint64       `json:"records"`
	Unread  uint64       `json:"unread"`
	From    *time.Time   `json:"from,omitempty"`
	To      *time.Time   `json:"to,omitempty"`
	Files   []fileReport `json:"files"`

	Outcomes    map[string]uint64 `json:"outcomes"`
	Identifiers int               `json:"identifiers"`
	// Others are records of identifiers beyond --max-identifiers. They were decided, and are
	// in the numbers of requests, but not in those of identifiers.
	Others uint64         `json:"records_of_others"`
	Limits []limitReport  `json:"limits"`
	Lines  []unreadReport `json:"unread_lines"`
	Times  timesReport    `json:"times"`
	Change *changeReport  `json:"change,omitempty"`
	Goal   string         `json:"suggest,omitempty"`

	timeline timelineReport
	ranks    []rank
	top      int // the most lines of each list
}

type fileReport struct {
	Name   string `json:"name"`
	Format string `json:"format"`
	Packed string `json:"packed,omitempty"`
}

type limitReport struct {
	Namespace         string        `json:"namespace"`
	Policy            string        `json:"policy"`
	Limit             string        `json:"limit"`
	Rate              string        `json:"rate"`
	Strategy          string        `json:"strategy"`
	Burst             int64         `json:"burst,omitempty"`
	Shadow            bool          `json:"shadow,omitempty"`
	Asked             uint64        `json:"asked"`
	Denied            uint64        `json:"denied"`
	Share             float64       `json:"share"`
	Identifiers       int           `json:"identifiers"`
	IdentifiersDenied int           `json:"identifiers_denied"`
	Hit               []hitReport   `json:"denied_most"`
	Before            *beforeReport `json:"before,omitempty"`
	Suggestion        *suggestion   `json:"suggestion,omitempty"`

	demand []bin
	times  []point
	count  int64
}

// A beforeReport is what the same limit of --current did.
type beforeReport struct {
	Rate              string `json:"rate"`
	Denied            uint64 `json:"denied"`
	IdentifiersDenied int    `json:"identifiers_denied"`
}

// A hitReport is an identifier that a limit denied.
type hitReport struct {
	Identifier  string    `json:"identifier"`
	Asked       uint64    `json:"asked"`
	Denied      uint64    `json:"denied"`
	FirstDenied time.Time `json:"first_denied"`
	LastDenied  time.Time `json:"last_denied"`
	// Peak is the most that it asked in one period of the limit, and Over how many times the
	// limit that is.
	Peak uint64  `json:"peak"`
	Over float64 `json:"over"`
}

type unreadReport struct {
	Kind    string `json:"kind"`
	Count   uint64 `json:"count"`
	Example string `json:"example"`
}

// A timesReport says what was odd about the times of the log.
type timesReport struct {
	OutOfOrder uint64  `json:"out_of_order"`
	Late       uint64  `json:"too_late_to_order"`
	Latest     float64 `json:"latest_seconds"`
	StepsBack  uint64  `json:"steps_back"`
	NoZone     uint64  `json:"without_zone"`
	Future     uint64  `json:"in_the_future"`
}

// A changeReport compares --config with --current.
type changeReport struct {
	DeniedBefore   uint64   `json:"denied_before"`
	DeniedNow      uint64   `json:"denied_now"`
	AllowedInstead uint64   `json:"allowed_instead"`  // requests that were denied, and now are not
	DeniedInstead  uint64   `json:"denied_instead"`   // the reverse
	Undecided      uint64   `json:"undecided_before"` // of a policy that --current does not have
	Gain           changeOf `json:"gain"`
	Lose           changeOf `json:"lose"`
}

type changeOf struct {
	Identifiers int          `json:"identifiers"`
	Most        []changeWhom `json:"most"`
}

type changeWhom struct {
	Namespace    string `json:"namespace"`
	Policy       string `json:"policy"`
	Identifier   string `json:"identifier"`
	Asked        uint64 `json:"asked"`
	DeniedBefore uint64 `json:"denied_before"`
	DeniedNow    uint64 `json:"denied_now"`
}

// A bin is some identifiers whose peaks are about the same.
type bin struct {
	From, To    uint64
	Identifiers int
	Denied      int
}

type timelineReport struct {
	Start, Width int64 // in microseconds
	All, Before  []point
}

// A rank is an identifier by how much it asked.
type rank struct {
	Place int
	Asked uint64
}

func moment(at int64) time.Time { return time.UnixMicro(at).UTC() }

// newReport returns the report of a run that has ended.
func newReport(r *run) *report {
	now := r.replicas[0]
	out := &report{
		Records: r.done.Load(), Unread: r.bad.total(), Identifiers: len(r.who.all), Others: r.who.others, Outcomes: map[string]uint64{},
		Limits: []limitReport{}, Lines: []unreadReport{}, Files: []fileReport{}, top: max(1, r.lines),
	}
	for _, k := range r.bad.kinds {
		out.Lines = append(out.Lines, unreadReport{k.kind, k.count, k.example})
	}
	slices.SortStableFunc(out.Lines, func(a, b unreadReport) int { return cmp.Compare(b.Count, a.Count) })
	if r.order.First != 0 {
		from, to := moment(r.order.First), moment(r.order.Last)
		out.From, out.To = &from, &to
	}
	for _, s := range r.sources {
		out.Files = append(out.Files, fileReport{s.name, string(s.format), s.packing})
	}
	for i, name := range decide.Outcomes {
		if n := now.outcomes[i]; n > 0 {
			out.Outcomes[name] = n
		}
	}
	o := &r.order
	out.Times = timesReport{o.OutOfOrder, o.Late, float64(o.Latest) / 1e6, o.StepsBack, o.NoZone, o.Future}
	if r.goal != nil {
		out.Goal = r.goal.String()
	}
	out.limitsOf(now, r.suggested)
	out.timeline = timelineReport{now.timeline.start, now.timeline.width, now.times.points, nil}
	out.ranks = ranks(r.who)
	if len(r.replicas) == 2 {
		out.before(r.replicas[1])
		out.timeline.Before = r.replicas[1].times.points
		out.Change = changeOfRun(r, out.top)
	}
	return out
}

// limitsOf sets the limits of out to those of a replica.
func (out *report) limitsOf(now *replica, suggested map[*row]*suggestion) {
	places := map[*row]int{}
	for i, w := range now.sorted() {
		places[w] = i
		l := w.limit
		lr := limitReport{
			Namespace: w.namespace, Policy: w.policy, Limit: w.name, Rate: l.Rate.String(), Strategy: l.Strategy.String(),
			Shadow: w.shadow, Asked: w.asked, Denied: w.denied, Share: share(w.denied, w.asked), Hit: []hitReport{},
			Suggestion: suggested[w], demand: make([]bin, maxBins), times: w.times.points, count: l.Rate.Count,
		}
		if l.Capacity != l.Rate.Count && !l.Rate.IsUnlimited() {
			lr.Burst = l.Capacity
		}
		out.Limits = append(out.Limits, lr)
	}
	for _, c := range now.counters {
		for i := range c.limits {
			h := &c.limits[i]
			out.Limits[places[h.row]].include(c, h, out.top)
		}
	}
	for i := range out.Limits {
		l := &out.Limits[i]
		sortHits(l.Hit)
		l.Hit = l.Hit[:min(len(l.Hit), out.top)]
	}
}

// before sets what the limits of another replica did that have the same names.
func (out *report) before(other *replica) {
	before := map[string]*beforeReport{}
	for _, w := range other.ordered {
		b := before[nameOf(w.namespace, w.policy, w.name)]
		if b == nil {
			b = &beforeReport{}
			before[nameOf(w.namespace, w.policy, w.name)] = b
		}
		b.Rate, b.Denied = w.limit.Rate.String(), b.Denied+w.denied
	}
	for _, c := range other.counters {
		for i := range c.limits {
			if h := &c.limits[i]; h.denied > 0 {
				before[nameOf(h.row.namespace, h.row.policy, h.row.name)].IdentifiersDenied++
			}
		}
	}
	for i := range out.Limits {
		l := &out.Limits[i]
		l.Before = before[nameOf(l.Namespace, l.Policy, l.Limit)]
	}
}

func nameOf(namespace, policy, limit string) string {
	return namespace + "\x00" + policy + "\x00" + limit
}

// include counts a counter and what the limit did to it.
func (l *limitReport) include(c *counter, h *hold, top int) {
	l.Identifiers++
	b := binOf(h.peak)
	l.demand[b].Identifiers++
	if h.denied == 0 {
		return
	}
	l.demand[b].Denied++
	l.IdentifiersDenied++
	over := 0.0
	if l.count > 0 {
		over = float64(h.peak) / float64(l.count)
	}
	l.Hit = append(l.Hit, hitReport{c.identifier, c.asked, h.denied, moment(h.first), moment(h.last), h.peak, over})
	if len(l.Hit) >= 2*top {
		sortHits(l.Hit)
		l.Hit = l.Hit[:top]
	}
}

func sortHits(hits []hitReport) {
	slices.SortFunc(hits, func(a, b hitReport) int {
		return cmp.Or(cmp.Compare(b.Denied, a.Denied), cmp.Compare(a.Identifier, b.Identifier))
	})
}

// changeOfRun compares the two configurations of a run.
func changeOfRun(r *run, top int) *changeReport {
	c := &changeReport{
		DeniedBefore: r.replicas[1].outcomes[decide.Denied], DeniedNow: r.replicas[0].outcomes[decide.Denied],
		AllowedInstead: r.changed[0], DeniedInstead: r.changed[1],
		Undecided: r.replicas[1].refused.total(),
		Gain:      changeOf{Most: []changeWhom{}}, Lose: changeOf{Most: []changeWhom{}},
	}
	for _, s := range r.who.all {
		who := changeWhom{s.Namespace, s.Policy, s.text(), s.asked, s.sides[1].denied, s.sides[0].denied}
		switch {
		case who.DeniedNow < who.DeniedBefore:
			c.Gain.add(who, top)
		case who.DeniedNow > who.DeniedBefore:
			c.Lose.add(who, top)
		}
	}
	c.Gain.cut(top)
	c.Lose.cut(top)
	return c
}

func (c *changeOf) add(who changeWhom, top int) {
	c.Identifiers++
	if c.Most = append(c.Most, who); len(c.Most) >= 2*top {
		c.cut(top)
	}
}

// cut keeps those for whom the most changes.
func (c *changeOf) cut(top int) {
	slices.SortFunc(c.Most, func(a, b changeWhom) int {
		return cmp.Or(cmp.Compare(b.size(), a.size()), cmp.Compare(a.Identifier, b.Identifier))
	})
	c.Most = c.Most[:min(len(c.Most), top)]
}

func (w *changeWhom) size() uint64 {
	return max(w.DeniedNow, w.DeniedBefore) - min(w.DeniedNow, w.DeniedBefore)
}

// ranks returns some identifiers by how much they asked: all of the first, and fewer of those
// who asked less.
func ranks(who *subjects) []rank {
	asked := make([]uint64, len(who.all))
	for i, s := range who.all {
		asked[i] = s.asked
	}
	slices.SortFunc(asked, func(a, b uint64) int { return cmp.Compare(b, a) })
	chosen := map[int]bool{}
	for place := 1; place <= len(asked); place += max(1, place/64) {
		chosen[place] = true
	}
	if len(asked) > 0 {
		chosen[len(asked)] = true
	}
	var all []rank
	for _, place := range slices.Sorted(maps.Keys(chosen)) {
		all = append(all, rank{place, asked[place-1]})
	}
	return all
}

// binOf returns the bin of a peak: four for each doubling.
func binOf(peak uint64) int {
	if peak < 8 {
		return int(peak)
	}
	top := bits.Len64(peak) - 1
	return min(maxBins-1, (top-1)*4+int(peak>>(top-2)&3))
}

// binBounds returns the least peak of a bin, and the least of the next.
func binBounds(b int) (from, to uint64) {
	least := func(b int) uint64 {
		if b < 8 {
			return uint64(b)
		}
		return uint64(4+b%4) << (b/4 - 1)
	}
	return least(b), least(b + 1)
}
