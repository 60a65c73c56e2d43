package policy

import (
	"math"
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// MaxNameBytes is how long the name of a policy may be.
const MaxNameBytes = 128

// Read reads the namespaces of a configuration: n maps their names to them. Read
// notes problems in the file of n, so the caller must check its Err before it uses
// the Config. A SLIDING_WINDOW_LOG with a count over maxLogCount is a problem.
func Read(n yamlfile.Node, maxLogCount int64) *Config {
	r := reader{maxLogCount}
	c := &Config{namespaces: map[string]*Namespace{}}
	n.Pairs(func(key, value yamlfile.Node) {
		c.namespaces[name(key, "namespace", store.MaxNamespaceBytes, "checkout")] = r.namespace(value)
	})
	return c
}

// name returns the name that key gives to what, in at most maxBytes.
func name(key yamlfile.Node, what string, maxBytes int, example string) string {
	text := key.Text()
	if text == "" || len(text) > maxBytes {
		key.Problem("%s is not a name of a %s, because it has %d bytes; give it 1 to %d, as in %q", quote.Cut(text), what, len(text), maxBytes, example)
	}
	return text
}

type reader struct{ maxLogCount int64 }

func (r reader) namespace(n yamlfile.Node) *Namespace {
	ns := &Namespace{policies: map[string]*Policy{}}
	n.Mapping(map[string]func(yamlfile.Node){
		"on_error":      func(v yamlfile.Node) { ns.onError = onError(v) },
		"policies_only": func(v yamlfile.Node) { ns.policiesOnly = v.Bool() },
		"exempt": func(v yamlfile.Node) {
			seen := map[string]int{}
			v.Items(func(item yamlfile.Node) {
				addPattern(&ns.exempt, item, func(pattern string) string { return pattern }, seen)
			})
		},
		"policies": func(v yamlfile.Node) {
			v.Pairs(func(key, value yamlfile.Node) {
				ns.policies[name(key, "policy", MaxNameBytes, "default")] = r.policy(value)
			})
		},
	})
	return ns
}

func onError(n yamlfile.Node) OnError {
	text := n.Text()
	if !slices.Contains(OnErrors, OnError(text)) {
		n.Problem("on_error %s is not known; use allow, deny, error or local", quote.Cut(text))
	}
	return OnError(text)
}

// addPattern adds the pattern n to p. It is a problem if p has that pattern
// already. value makes what it stands for. seen has the line of each pattern that was added.
func addPattern[T any](p *patterns[T], n yamlfile.Node, value func(pattern string) T, seen map[string]int) {
	pattern := n.Text()
	same := canonical(pattern)
	if line, ok := seen[same]; ok {
		n.Problem("%s is already on line %d; leave one out", quote.Cut(pattern), line)
		return
	}
	seen[same] = n.Line()
	if err := p.add(pattern, value(pattern)); err != nil {
		n.Problem("%v", err)
	}
}

func (r reader) policy(n yamlfile.Node) *Policy {
	p := &Policy{}
	var limits, overrides yamlfile.Node
	shadow := false
	n.Mapping(map[string]func(yamlfile.Node){
		"shadow":    func(v yamlfile.Node) { shadow = v.Bool() },
		"limits":    func(v yamlfile.Node) { limits = v },
		"overrides": func(v yamlfile.Node) { overrides = v },
	})
	if !limits.Given() {
		n.Problem(`a policy needs limits, as in "limits: [{rate: 100/min}]"; this one has none`)
		return p
	}
	p.limits = r.limits(limits, shadow)
	seen := map[string]int{}
	overrides.Items(func(item yamlfile.Node) { r.override(p, item, shadow, seen) })
	return p
}

func (r reader) override(p *Policy, n yamlfile.Node, shadow bool, seen map[string]int) {
	var identifiers, limits yamlfile.Node
	n.Mapping(map[string]func(yamlfile.Node){
		"identifiers": func(v yamlfile.Node) { identifiers = v },
		"limits":      func(v yamlfile.Node) { limits = v },
		"shadow":      func(v yamlfile.Node) { shadow = v.Bool() },
	})
	if !identifiers.Given() || !limits.Given() {
		n.Problem(`an override needs identifiers and limits, as in {identifiers: ["partner-*"], limits: [{rate: 500/min}]}`)
		return
	}
	own := r.limits(limits, shadow)
	ofOverride := func(pattern string) override { return override{pattern, own} }
	items := 0
	identifiers.Items(func(item yamlfile.Node) { items++; addPattern(&p.overrides, item, ofOverride, seen) })
	if items == 0 {
		identifiers.Problem(`no identifiers; give some, as in ["alice", "partner-*", "10.0.0.0/8"]`)
	}
}

func (r reader) limits(n yamlfile.Node, shadow bool) []strategy.Limit {
	var limits []strategy.Limit
	items := 0
	n.Items(func(item yamlfile.Node) {
		items++
		l, ok := r.limit(item, shadow)
		if !ok {
			return
		}
		if slices.ContainsFunc(limits, func(m strategy.Limit) bool { return m.SameCounter(&l) }) {
			item.Problem("the same limit as another of this list; leave one out, or give them different names")
			return
		}
		limits = append(limits, l)
	})
	switch {
	case items == 0:
		n.Problem(`no limits; give 1 to %d, as in [{rate: 100/min}]`, strategy.MaxLimits)
	case items > strategy.MaxLimits:
		n.Problem("%d limits; give at most %d", items, strategy.MaxLimits)
	}
	return limits
}

func (r reader) limit(n yamlfile.Node, shadow bool) (l strategy.Limit, ok bool) {
	var spec strategy.Spec
	ok = true
	var name, rate, burst, zone, anchor yamlfile.Node
	n.Mapping(map[string]func(yamlfile.Node){
		"name": func(v yamlfile.Node) { name, spec.Name = v, v.Text() },
		"rate": func(v yamlfile.Node) { rate, spec.Rate = v, v.Text() },
		"strategy": func(v yamlfile.Node) {
			var err error
			if spec.Strategy, err = strategy.Parse(v.Text()); err != nil {
				v.Problem("%v", err)
				ok = false
			}
		},
		"burst": func(v yamlfile.Node) { burst, spec.Burst = v, v.Uint(strategy.MaxBurst) },
		"time_zone": func(v yamlfile.Node) {
			var err error
			if spec.Zone, err = timezone.Load(v.Text()); err != nil {
				v.Problem("%v", err)
				ok = false
			}
			zone = v
		},
		"anchor_day": func(v yamlfile.Node) { anchor, spec.AnchorDay = v, uint32(v.Uint(math.MaxUint32)) },
		"max_debt": func(v yamlfile.Node) {
			if !v.IsNull() {
				spec.MaxDebt = strategy.AtMost(v.Uint(strategy.MaxUnits))
			}
		},
		"shadow": func(v yamlfile.Node) { shadow = v.Bool() },
	})
	if !rate.Given() {
		n.Problem(`a limit needs a rate, as in {rate: 100/min}; this one has none`)
		return l, false
	}
	l, wrong := strategy.NewLimit(spec, r.maxLogCount)
	for _, w := range wrong {
		switch w.Field {
		case "name":
			name.Problem("%s", w.Problem)
		case "rate":
			rate.Problem("%s", w.Problem)
		case "burst":
			if ok { // otherwise nobody knows which strategy the burst is for
				burst.Problem("%s", w.Problem)
			}
		case "time_zone":
			zone.Problem("%s", w.Problem)
		case "anchor_day":
			anchor.Problem("%s", w.Problem)
		}
	}
	l.Shadow = shadow
	return l, ok && wrong == nil
}
