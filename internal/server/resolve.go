package server

import (
	"fmt"
	"unicode/utf8"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// maxBatch is how many requests a batch may hold.
const maxBatch = 1000

// A subject is what ShouldAllowRequest and ResetRequest share.
type subject interface {
	GetNamespace() string
	GetIdentifier() string
	GetLimits() []*ratelimitv1.Limit
	GetPolicy() string
}

// check returns what is wrong with in, but for its limits.
func (s *Server) check(in subject, ns *policy.Namespace) (wrong violations) {
	checkName(&wrong, "namespace", in.GetNamespace(), store.MaxNamespaceBytes, "checkout")
	checkName(&wrong, "identifier", in.GetIdentifier(), store.MaxIdentifierBytes, "user:42")

	limits := in.GetLimits()
	if n := len(in.GetPolicy()); n > policy.MaxNameBytes {
		wrong.add("policy", fmt.Sprintf("%.32q... has %d bytes; give 1 to %d, such as \"default\"", in.GetPolicy(), n, policy.MaxNameBytes))
	} else {
		checkText(&wrong, "policy", in.GetPolicy(), "default")
	}
	switch {
	case len(limits) > 0 && (s.policiesOnly || ns.PoliciesOnly()):
		wrong.add("limits", "this server decides by policies of its own alone; leave limits out, and name a policy")
	case len(limits) > 0 && in.GetPolicy() != "":
		wrong.add("policy", fmt.Sprintf("both policy %.64q and %d limits are given; give one of the two", in.GetPolicy(), len(limits)))
	case len(limits) == 0 && in.GetPolicy() == "":
		wrong.add("limits", `no limits and no policy; give 1 to 16 limits, such as {rate: "100/min"}, or the name of a policy`)
	case len(limits) > strategy.MaxLimits:
		wrong.add("limits", fmt.Sprintf("%d limits; give at most %d", len(limits), strategy.MaxLimits))
	}
	return wrong
}

// resolve validates in, which is of namespace ns, and sets the names and the
// limits of r to what it asks about. Limits that the caller sent are appended
// to arena, which is returned.
func (s *Server) resolve(in subject, ns *policy.Namespace, r *store.Request, arena []strategy.Limit, last *lastLimits) ([]strategy.Limit, error) {
	wrong := s.check(in, ns)
	r.Namespace, r.Identifier = in.GetNamespace(), in.GetIdentifier()
	if name := in.GetPolicy(); name != "" && wrong == nil {
		p := ns.Policy(name)
		if p == nil {
			return arena, unknownPolicy(r.Namespace, name, ns)
		}
		r.Limits = p.Limits(r.Identifier)
		return arena, nil
	}
	if wrong == nil && last.are(in.GetLimits()) {
		r.Limits = last.out
		return arena, nil
	}
	start := len(arena)
	for i, l := range in.GetLimits() {
		if i == strategy.MaxLimits {
			break
		}
		limit, problems := strategy.NewLimit(strategy.Spec{
			Name:     l.GetName(),
			Rate:     l.GetRate(),
			Strategy: strategyOf(l.GetStrategy()),
			Burst:    l.GetBurst(),
		}, s.maxLogCount)
		for _, p := range problems {
			if p.Field == "strategy" {
				p.Problem = fmt.Sprintf("unknown strategy %d; use 1 (FIXED_WINDOW) to 6 (GCRA)", l.GetStrategy())
			}
			wrong.add(fmt.Sprintf("limits[%d].%s", i, p.Field), p.Problem)
		}
		if !utf8.ValidString(l.GetName()) {
			checkText(&wrong, fmt.Sprintf("limits[%d].name", i), l.GetName(), "burst")
		}
		if problems == nil {
			for j := start; j < len(arena); j++ {
				if arena[j].SameCounter(&limit) {
					wrong.add(fmt.Sprintf("limits[%d]", i), fmt.Sprintf("the same limit as another of this request: %s; leave one out, or give them different names", describe(&limit)))
					break
				}
			}
		}
		arena = append(arena, limit)
	}
	if wrong != nil {
		return arena[:start], wrong.err()
	}
	r.Limits = arena[start:]
	*last = lastLimits{in.GetLimits(), r.Limits}
	return arena, nil
}

// describe names a limit in a message.
func describe(l *strategy.Limit) string {
	if l.Name != "" {
		return fmt.Sprintf("%s named %q", l.Strategy, l.Name)
	}
	return fmt.Sprintf("%s of %s", l.Strategy, l.Rate)
}

func checkName(wrong *violations, field, value string, maxBytes int, example string) {
	switch {
	case value == "":
		wrong.add(field, fmt.Sprintf("empty; give one, such as %q", example))
	case len(value) > maxBytes:
		wrong.add(field, fmt.Sprintf("%.32q... has %d bytes; give 1 to %d, such as %q", value, len(value), maxBytes, example))
	default:
		checkText(wrong, field, value, example)
	}
}

// checkText refuses a value that is not UTF-8, which protobuf demands and the
// codec lets pass.
func checkText(wrong *violations, field, value, example string) {
	if !utf8.ValidString(value) {
		wrong.add(field, fmt.Sprintf("%.32q is not UTF-8 text; encode it, as in base64, or give one such as %q", value, example))
	}
}

// strategyOf returns the strategy of the same number. One that no strategy has
// becomes one that strategy.NewLimit refuses.
func strategyOf(s ratelimitv1.Strategy) strategy.Strategy {
	if s < 0 || s > 255 {
		return 255
	}
	return strategy.Strategy(s)
}
