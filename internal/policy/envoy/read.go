package envoy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// Options say how to read files.
type Options struct {
	Merge       bool  // whether several files may configure one domain
	MaxLogCount int64 // the greatest count of a sliding_window_log
}

// A Reader reads files into one configuration.
type Reader struct {
	Config   *Config
	Warnings []string // which keys have no effect, with their place

	o     Options
	files map[string]string // the first file of each domain

	descriptorsRead int
	metricBytes     int  // of the names of all descriptors
	metadataBytes   int  // of messages
	full            bool // whether there are too many, which is a problem only once
}

// NewReader returns a Reader with an empty configuration.
func NewReader(o Options) *Reader {
	return &Reader{Config: &Config{domains: map[string]*domain{}}, o: o, files: map[string]string{}}
}

// maxDepth is how deep descriptors may be nested. It is more than anybody needs, and
// bounds the recursion.
const maxDepth = 100

const (
	// maxDescriptors is how many descriptors all files together may have, with those
	// that aliases repeat.
	maxDescriptors = 500_000
	// maxMetricBytes is for the names of all of them: each has those of the
	// descriptors above it.
	maxMetricBytes = 64 << 20
	// maxWarnings is how many warnings there are: each becomes a line of the log.
	maxWarnings = 100
)

// The keys of each place. The service whose format this is accepts every key in
// every place, so a key in the wrong place is only a warning.
var (
	rootKeys       = []string{"domain", "descriptors", "overdraw"}
	descriptorKeys = []string{"key", "value", "rate_limit", "rate_limits", "descriptors", "shadow_mode", "detailed_metric", "value_to_metric", "share_threshold", "quota_mode", "metadata"}
	limitKeys      = []string{"unit", "requests_per_unit", "unlimited", "name", "replaces", "unit_multiplier", "strategy", "burst", "overdraw", "max_debt", "calendar", "time_zone", "anchor_day"}
	elsewhere      = slices.Concat(rootKeys, descriptorKeys, limitKeys)
)

// A place is where something is configured. It notes what is wrong there.
type place interface {
	Problem(format string, args ...any)
}

// Read adds the file with the root n to the configuration. It notes problems in
// that file, so the caller must check its Err before it uses the Config.
func (r *Reader) Read(name string, n yamlfile.Node) {
	var domain, descriptors, overdraw yamlfile.Node
	r.mapping(name, n, map[string]func(yamlfile.Node){
		"domain":      func(v yamlfile.Node) { domain = v },
		"descriptors": func(v yamlfile.Node) { descriptors = v },
		"overdraw":    func(v yamlfile.Node) { overdraw = v },
	})
	at := domain
	if !at.Given() {
		at = n
	}
	if tree := r.domain(domain.Text(), name, at); tree != nil {
		tree.setOverdraw(overdraw)
		r.descriptors(name, descriptors, &tree.node, domain.Text(), 0)
	}
}

// setOverdraw sets what hits of the limits of a domain do, of which v is a part.
func (d *domain) setOverdraw(v yamlfile.Node) {
	o := readOverdraw(v)
	if o != "" && d.overdraw != "" && o != d.overdraw {
		v.Problem("overdraw is %s here, and %s in another file of this domain; leave one of them out", o, d.overdraw)
	}
	if o != "" {
		d.overdraw = o
	}
}

// domain returns the tree of a domain, to which its descriptors are to be added; or nil
// if it has no name. source is the file, or what else has the domain.
func (r *Reader) domain(name, source string, at place) *domain {
	if name == "" {
		at.Problem(`no domain; add one, as in "domain: edge"`)
		return nil
	}
	tree := r.Config.domains[name]
	if other, ok := r.files[name]; ok && !r.o.Merge {
		at.Problem("domain %s is also that of %s; have one file per domain, or allow domains to be merged", quote.Cut(name), other)
		tree = nil // read on, to find the other problems
	} else if !ok {
		r.files[name] = source
	}
	if tree == nil {
		tree = new(domain)
		if _, ok := r.Config.domains[name]; !ok {
			r.Config.domains[name] = tree
		}
	}
	return tree
}

// mapping reads a mapping as n.Mapping does, and warns of keys that have an effect
// only elsewhere.
func (r *Reader) mapping(name string, n yamlfile.Node, keys map[string]func(yamlfile.Node)) {
	for _, k := range elsewhere {
		if keys[k] == nil {
			keys[k] = func(v yamlfile.Node) { r.warn(name, v, k) }
		}
	}
	n.Mapping(keys)
}

func (r *Reader) warn(name string, at yamlfile.Node, key string) {
	r.warnText(fmt.Sprintf("%s:%d: %s has no effect here", name, at.Line(), key))
}

func (r *Reader) warnText(text string) {
	switch n := len(r.Warnings); {
	case n == maxWarnings:
		r.Warnings = append(r.Warnings, "there are more keys that have no effect")
		return
	case n > maxWarnings:
		return
	}
	r.Warnings = append(r.Warnings, text)
}

// descriptors reads a list of descriptors into tree. path is the metric of the
// descriptor that has the list.
func (r *Reader) descriptors(name string, n yamlfile.Node, tree *node, path string, depth int) {
	if !n.Given() {
		return
	}
	if depth == maxDepth {
		n.Problem("descriptors are nested more than %d deep", maxDepth)
		return
	}
	n.Items(func(item yamlfile.Node) { r.descriptor(name, item, tree, path, depth) })
}

func (r *Reader) descriptor(name string, n yamlfile.Node, tree *node, path string, depth int) {
	w := draft{at: n, keyAt: n}
	var limit, more, below, meta yamlfile.Node
	r.mapping(name, n, map[string]func(yamlfile.Node){
		"key":             func(v yamlfile.Node) { w.keyAt, w.Key = v, v.Text() },
		"value":           func(v yamlfile.Node) { w.Value = v.Text() },
		"rate_limit":      func(v yamlfile.Node) { limit = v },
		"rate_limits":     func(v yamlfile.Node) { more = v },
		"descriptors":     func(v yamlfile.Node) { below = v },
		"shadow_mode":     func(v yamlfile.Node) { w.shadow = v.Bool() },
		"quota_mode":      func(v yamlfile.Node) { w.quota = v.Bool() },
		"detailed_metric": func(v yamlfile.Node) { w.detailed = v.Bool() },
		"value_to_metric": func(v yamlfile.Node) { w.valueToMetric = v.Bool() },
		"share_threshold": func(v yamlfile.Node) { w.shareAt, w.shareThreshold = v, v.Bool() },
		"metadata":        func(v yamlfile.Node) { meta, w.metadata = v, v.Map() },
	})
	if !limit.IsNull() || !more.IsNull() {
		w.readLimit = func() *Limit { return r.limits(name, limit, more) }
	} else if meta.Given() {
		r.warn(name, meta, "metadata")
	}
	if d, path := r.add(&w, tree, path); d != nil {
		r.descriptors(name, below, &d.below, path, depth+1)
	}
}

// A draft is a descriptor as it is written, before it is checked. Files and messages
// both become drafts, so that both are held to the same rules.
type draft struct {
	descriptor
	at, keyAt, shareAt      place
	readLimit               func() *Limit // nil: it has none
	shadow, quota, detailed bool
	metadata                map[string]any
}

// add checks w and adds it to tree. path is the metric of the descriptor above. It
// returns what was added, and its own metric; or nil if it cannot be.
func (r *Reader) add(w *draft, tree *node, path string) (*descriptor, string) {
	d := &w.descriptor
	if d.Key == "" {
		w.keyAt.Problem("a descriptor needs a key; this one has none")
		return nil, ""
	}
	var b strings.Builder
	b.WriteString(path)
	appendMetric(&b, d.Key, d.Value)
	path = b.String()
	r.descriptorsRead++
	r.metricBytes += len(path)
	if r.descriptorsRead > maxDescriptors || r.metricBytes > maxMetricBytes {
		if !r.full {
			w.at.Problem("more than %d descriptors, or more than %d bytes of their names; configure fewer, and shorter names", maxDescriptors, maxMetricBytes)
		}
		r.full = true
		return nil, ""
	}

	d.cut()
	if d.shareThreshold && d.parts == nil {
		w.shareAt.Problem(`share_threshold needs a value with a *, such as "files/*"; this one is %s`, quote.Cut(d.Value))
	}
	if tree.children[d.Entry] != nil {
		w.keyAt.Problem("descriptor %s is already in this list; leave one of them out", quote.Cut(path))
	}
	if w.readLimit != nil {
		if d.limit = w.readLimit(); d.limit != nil {
			d.limit.metric, d.limit.detailed, d.limit.ShadowMode, d.limit.QuotaMode = path, w.detailed, w.shadow, w.quota
			d.limit.Metadata = w.metadata
		}
	}
	if tree.children == nil {
		tree.children = map[Entry]*descriptor{}
	}
	added := new(descriptor)
	*added = *d // not the draft, which holds the file
	tree.children[d.Entry] = added
	if d.parts != nil {
		tree.wildcards = append(tree.wildcards, added)
	}
	return added, path
}

// cut sets the parts of d if there is a star in it.
func (d *descriptor) cut() {
	pattern := d.Value
	if d.starInKey = strings.Contains(d.Key, "*"); d.starInKey {
		pattern = d.Key
		if d.Value != "" {
			pattern += "_" + d.Value
		}
	}
	if strings.Contains(pattern, "*") {
		d.parts = strings.Split(pattern, "*")
	}
}

// limits returns the limit with the part in one, and those in the list more. Either may
// be left out. It is nil if something is wrong with it.
func (r *Reader) limits(name string, one, more yamlfile.Node) *Limit {
	w := limitDraft{at: one}
	if !one.IsNull() {
		p := newPart(one)
		keys := p.keys()
		keys["unlimited"] = func(v yamlfile.Node) { p.unlimited = v.Bool() }
		keys["name"] = func(v yamlfile.Node) { w.ruleName = v.Text() }
		keys["replaces"] = func(v yamlfile.Node) {
			v.Items(func(item yamlfile.Node) { w.replaces = append(w.replaces, r.replaced(name, item)) })
		}
		r.mapping(name, one, keys)
		w.parts = append(w.parts, p)
	}
	more.Items(func(item yamlfile.Node) {
		if len(w.parts) > strategy.MaxLimits {
			return // newLimit says that there are too many
		}
		p := newPart(item)
		r.mapping(name, item, p.keys())
		w.parts = append(w.parts, p)
	})
	return r.newLimit(&w)
}

// A limitDraft is a limit as it is written, before it is checked.
type limitDraft struct {
	at       place // of what has its name
	parts    []*partDraft
	ruleName string
	replaces []string
}

// A partDraft is a part of a limit as it is written.
type partDraft struct {
	spec
	at, unitAt place
	unit       string // instead of spec's
	unlimited  bool
	overdraw   Overdraw
}

// newPart returns the draft of what is written at a place, without what is written.
func newPart(at place) *partDraft {
	return &partDraft{at: at, unitAt: at, spec: spec{multiplier: 1, strategy: strategy.FixedWindow}}
}

// keys returns what reads each key of a file into p.
func (p *partDraft) keys() map[string]func(yamlfile.Node) {
	return map[string]func(yamlfile.Node){
		"unit":              func(v yamlfile.Node) { p.unitAt, p.unit = v, v.Text() },
		"requests_per_unit": func(v yamlfile.Node) { p.requests = uint32(v.Uint(1<<32 - 1)) },
		"unit_multiplier": func(v yamlfile.Node) {
			if !v.IsNull() {
				p.multiplier = uint32(v.Uint(1<<32 - 1))
			}
		},
		"strategy": func(v yamlfile.Node) {
			if v.IsNull() {
				return
			}
			algorithm, err := strategy.Parse(v.Text())
			if err != nil {
				v.Problem("%v", err)
				return // to find the other problems
			}
			p.strategy = algorithm
		},
		"burst": func(v yamlfile.Node) {
			if !v.IsNull() {
				p.burst = v.Uint(strategy.MaxBurst)
			}
		},
		"overdraw": func(v yamlfile.Node) { p.overdraw = readOverdraw(v) },
		"max_debt": func(v yamlfile.Node) {
			if !v.IsNull() {
				p.maxDebt = strategy.AtMost(v.Uint(strategy.MaxUnits))
			}
		},
		"calendar": func(v yamlfile.Node) { p.calendar = v.Bool() },
		"time_zone": func(v yamlfile.Node) {
			zone, err := timezone.Load(v.Text())
			if err != nil {
				v.Problem("%v", err)
			}
			p.zone = zone
		},
		"anchor_day": func(v yamlfile.Node) {
			if !v.IsNull() {
				p.anchorDay = uint32(v.Uint(math.MaxUint32))
			}
		},
	}
}

// newLimit checks w. It returns nil if there is no such limit.
func (r *Reader) newLimit(w *limitDraft) *Limit {
	if slices.Contains(w.replaces, w.ruleName) && w.ruleName != "" {
		w.at.Problem("%s replaces itself; name another in replaces", quote.Cut(w.ruleName))
	}
	l := &Limit{RuleName: w.ruleName, Replaces: w.replaces}
	right := true
	for _, p := range w.parts {
		switch {
		case len(l.Parts) > 0 && l.Unlimited():
			p.at.Problem("the limit is unlimited, and no other can be beside it; leave one of them out")
		case len(l.Parts) == strategy.MaxLimits:
			p.at.Problem("more than %d limits on one descriptor; leave some out", strategy.MaxLimits)
		default:
			right = r.addPart(p, l) && right
			if p.overdraw != "" && l.overdraw != "" && p.overdraw != l.overdraw {
				p.at.Problem("overdraw is %s here, and %s of another limit of this descriptor; hits are charged to all of them in one way, so leave one of them out", p.overdraw, l.overdraw)
			}
			l.overdraw = cmp.Or(l.overdraw, p.overdraw)
			continue
		}
		right = false
	}
	if !right || len(l.Parts) == 0 {
		return nil
	}
	r.descriptorsRead += len(l.Parts) - 1 // each further one takes as much memory
	return l
}

// addPart checks p and adds it to l. It reports whether it could.
func (r *Reader) addPart(p *partDraft, l *Limit) bool {
	p.spec.unit = unitCalled(p.unit)
	if p.unlimited {
		if p.spec.unit != 0 {
			p.unitAt.Problem("unlimited and a unit of %s are both given; leave one of them out", quote.Cut(p.unit))
		}
		if p.calendar || p.zone != nil || p.anchorDay > 0 || p.maxDebt != 0 {
			p.at.Problem("an unlimited descriptor counts nothing; leave out calendar, time_zone, anchor_day and max_debt")
		}
		everything := strategy.Limit{Strategy: strategy.FixedWindow, Rate: rate.Rate{Count: rate.Unlimited}}
		l.Parts = append(l.Parts, Part{Limit: everything, Multiplier: 1})
		return true
	}
	if p.spec.unit == 0 {
		p.unitAt.Problem("unit %s is not known; use %s", quote.Cut(p.unit), unitNames())
		return false
	}
	if p.maxDebt != 0 && p.overdraw == OverdrawNone {
		p.at.Problem("max_debt bounds what overdraw leaves, and overdraw: none leaves no debt; leave one of them out")
	}
	part, err := p.part(r.o.MaxLogCount)
	if err != nil {
		p.at.Problem("%v", err)
		return false
	}
	if slices.ContainsFunc(l.Parts, func(other Part) bool { return other.SameCounter(&part.Limit) }) {
		p.at.Problem("another limit of this descriptor has the unit %s and the same strategy; give one of them another unit or unit_multiplier", quote.Cut(p.unit))
		return false
	}
	l.Parts = append(l.Parts, part)
	return true
}

// replaced returns the name in an item of replaces.
func (r *Reader) replaced(name string, n yamlfile.Node) (rule string) {
	r.mapping(name, n, map[string]func(yamlfile.Node){"name": func(v yamlfile.Node) { rule = v.Text() }})
	if rule == "" {
		n.Problem(`an item of replaces needs a name, as in "- name: other"; this one has none`)
	}
	return rule
}

// unitCalled returns the unit of that name, in any case, or 0.
func unitCalled(name string) Unit {
	for u := range units {
		if strings.EqualFold(units[u].name, name) {
			return u
		}
	}
	return 0
}
