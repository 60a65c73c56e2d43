package envoy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
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
	full            bool // whether there are too many, which is a problem only once
}

// NewReader returns a Reader with an empty configuration.
func NewReader(o Options) *Reader {
	return &Reader{Config: &Config{domains: map[string]*node{}}, o: o, files: map[string]string{}}
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
	rootKeys       = []string{"domain", "descriptors"}
	descriptorKeys = []string{"key", "value", "rate_limit", "rate_limits", "descriptors", "shadow_mode", "detailed_metric", "value_to_metric", "share_threshold", "quota_mode", "metadata"}
	limitKeys      = []string{"unit", "requests_per_unit", "unlimited", "name", "replaces", "unit_multiplier", "strategy", "burst"}
	elsewhere      = slices.Concat(rootKeys, descriptorKeys, limitKeys)
)

// Read adds the file with the root n to the configuration. It notes problems in
// that file, so the caller must check its Err before it uses the Config.
func (r *Reader) Read(name string, n yamlfile.Node) {
	var domain, descriptors yamlfile.Node
	r.mapping(name, n, map[string]func(yamlfile.Node){
		"domain":      func(v yamlfile.Node) { domain = v },
		"descriptors": func(v yamlfile.Node) { descriptors = v },
	})
	text := domain.Text()
	if text == "" {
		at := domain
		if !at.Given() {
			at = n
		}
		at.Problem(`no domain; add one, as in "domain: edge"`)
		return
	}
	tree := r.Config.domains[text]
	if other, ok := r.files[text]; ok && !r.o.Merge {
		domain.Problem("domain %s is also that of %s; have one file per domain, or allow domains to be merged", quote.Cut(text), other)
		tree = nil // read on, to find the other problems
	} else if !ok {
		r.files[text] = name
	}
	if tree == nil {
		tree = &node{}
		if _, ok := r.Config.domains[text]; !ok {
			r.Config.domains[text] = tree
		}
	}
	r.descriptors(name, descriptors, tree, text, 0)
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
	switch n := len(r.Warnings); {
	case n == maxWarnings:
		r.Warnings = append(r.Warnings, "there are more keys that have no effect")
		return
	case n > maxWarnings:
		return
	}
	r.Warnings = append(r.Warnings, fmt.Sprintf("%s:%d: %s has no effect here", name, at.Line(), key))
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
	d := &descriptor{}
	var key, limit, more, below, share, meta yamlfile.Node
	var shadow, quota, detailed bool
	var metadata map[string]any
	r.mapping(name, n, map[string]func(yamlfile.Node){
		"key":             func(v yamlfile.Node) { key, d.Key = v, v.Text() },
		"value":           func(v yamlfile.Node) { d.Value = v.Text() },
		"rate_limit":      func(v yamlfile.Node) { limit = v },
		"rate_limits":     func(v yamlfile.Node) { more = v },
		"descriptors":     func(v yamlfile.Node) { below = v },
		"shadow_mode":     func(v yamlfile.Node) { shadow = v.Bool() },
		"quota_mode":      func(v yamlfile.Node) { quota = v.Bool() },
		"detailed_metric": func(v yamlfile.Node) { detailed = v.Bool() },
		"value_to_metric": func(v yamlfile.Node) { d.valueToMetric = v.Bool() },
		"share_threshold": func(v yamlfile.Node) { share, d.shareThreshold = v, v.Bool() },
		"metadata":        func(v yamlfile.Node) { meta, metadata = v, v.Map() },
	})
	if d.Key == "" {
		at := key
		if !at.Given() {
			at = n
		}
		at.Problem("a descriptor needs a key; this one has none")
		return
	}
	var b strings.Builder
	b.WriteString(path)
	appendMetric(&b, d.Key, d.Value)
	path = b.String()
	r.descriptorsRead++
	r.metricBytes += len(path)
	if r.descriptorsRead > maxDescriptors || r.metricBytes > maxMetricBytes {
		if !r.full {
			n.Problem("more than %d descriptors, or more than %d bytes of their names; configure fewer, and shorter names", maxDescriptors, maxMetricBytes)
		}
		r.full = true
		return
	}

	d.cut()
	if d.shareThreshold && d.parts == nil {
		share.Problem(`share_threshold needs a value with a *, such as "files/*"; this one is %s`, quote.Cut(d.Value))
	}
	if tree.children[d.Entry] != nil {
		key.Problem("descriptor %s is already in this list; leave one of them out", quote.Cut(path))
	}
	if !limit.IsNull() || !more.IsNull() {
		if d.limit = r.limits(name, limit, more); d.limit != nil {
			d.limit.metric, d.limit.detailed, d.limit.ShadowMode, d.limit.QuotaMode = path, detailed, shadow, quota
			d.limit.Metadata = metadata
		}
	} else if meta.Given() {
		r.warn(name, meta, "metadata")
	}
	r.descriptors(name, below, &d.below, path, depth+1)
	if tree.children == nil {
		tree.children = map[Entry]*descriptor{}
	}
	tree.children[d.Entry] = d
	if d.parts != nil {
		tree.wildcards = append(tree.wildcards, d)
	}
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
	l := &Limit{}
	right := true
	if !one.IsNull() {
		right = r.limit(name, one, l)
	}
	more.Items(func(item yamlfile.Node) {
		switch {
		case len(l.Parts) > 0 && l.Unlimited():
			item.Problem("the limit is unlimited, and no other can be beside it; leave one of them out")
		case len(l.Parts) == strategy.MaxLimits:
			item.Problem("more than %d limits on one descriptor; leave some out", strategy.MaxLimits)
		default:
			right = r.further(name, item, l) && right
			return
		}
		right = false
	})
	if !right || len(l.Parts) == 0 {
		return nil
	}
	r.descriptorsRead += len(l.Parts) - 1 // each further one takes as much memory
	return l
}

// limit reads rate_limit into l. It reports whether l can be used.
func (r *Reader) limit(name string, n yamlfile.Node, l *Limit) bool {
	var unlimited yamlfile.Node
	var p partNodes
	keys := p.keys()
	keys["unlimited"] = func(v yamlfile.Node) { unlimited = v }
	keys["name"] = func(v yamlfile.Node) { l.RuleName = v.Text() }
	keys["replaces"] = func(v yamlfile.Node) {
		v.Items(func(item yamlfile.Node) { l.Replaces = append(l.Replaces, r.replaced(name, item)) })
	}
	r.mapping(name, n, keys)
	if slices.Contains(l.Replaces, l.RuleName) && l.RuleName != "" {
		n.Problem("%s replaces itself; name another in replaces", quote.Cut(l.RuleName))
	}
	if unlimited.Given() && unlimited.Bool() {
		if unit := p.unit.Text(); unitCalled(unit) != 0 {
			p.unit.Problem("unlimited and a unit of %s are both given; leave one of them out", quote.Cut(unit))
		}
		everything := strategy.Limit{Strategy: strategy.FixedWindow, Rate: rate.Rate{Count: rate.Unlimited}}
		l.Parts = append(l.Parts, Part{Limit: everything, Multiplier: 1})
		return true
	}
	return r.part(n, &p, l)
}

// further reads an item of rate_limits into l. It reports whether l can be used.
func (r *Reader) further(name string, n yamlfile.Node, l *Limit) bool {
	var p partNodes
	r.mapping(name, n, p.keys())
	return r.part(n, &p, l)
}

// partNodes are what a file says of a part of a limit.
type partNodes struct {
	unit, multiplier, algorithm, burst yamlfile.Node
	requests                           uint64
}

// keys returns what reads each key of it.
func (p *partNodes) keys() map[string]func(yamlfile.Node) {
	return map[string]func(yamlfile.Node){
		"unit":              func(v yamlfile.Node) { p.unit = v },
		"requests_per_unit": func(v yamlfile.Node) { p.requests = v.Uint(1<<32 - 1) },
		"unit_multiplier":   func(v yamlfile.Node) { p.multiplier = v },
		"strategy":          func(v yamlfile.Node) { p.algorithm = v },
		"burst":             func(v yamlfile.Node) { p.burst = v },
	}
}

// part adds to l the part that p, which is in n, says. It reports whether it could.
func (r *Reader) part(n yamlfile.Node, p *partNodes, l *Limit) bool {
	number := unitCalled(p.unit.Text())
	if number == 0 {
		at := p.unit
		if !at.Given() {
			at = n
		}
		at.Problem("unit %s is not known; use %s", quote.Cut(p.unit.Text()), unitNames())
		return false
	}
	s := spec{requests: uint32(p.requests), unit: number, multiplier: 1, strategy: strategy.FixedWindow}
	if !p.multiplier.IsNull() {
		s.multiplier = uint32(p.multiplier.Uint(1<<32 - 1))
	}
	if !p.algorithm.IsNull() {
		var err error
		if s.strategy, err = strategy.Parse(p.algorithm.Text()); err != nil {
			p.algorithm.Problem("%v", err)
			return false
		}
	}
	if !p.burst.IsNull() {
		s.burst = p.burst.Uint(strategy.MaxBurst)
	}
	part, err := s.part(r.o.MaxLogCount)
	if err != nil {
		n.Problem("%v", err)
		return false
	}
	if slices.ContainsFunc(l.Parts, func(other Part) bool { return other.SameCounter(&part.Limit) }) {
		n.Problem("another limit of this descriptor has the unit %s and the same strategy; give one of them another unit or unit_multiplier", quote.Cut(p.unit.Text()))
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
