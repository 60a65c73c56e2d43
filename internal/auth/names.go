package auth

import (
	"fmt"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// names are patterns of namespaces or policies: a name, or the beginning of names
// and a * at the end. (The patterns of identifiers in package policy mean networks
// too, which would surprise here.) The zero names match nothing.
type names struct {
	any    bool // "*", which alone matches ""
	exact  map[string]bool
	starts []string
}

// all matches every name.
var all = names{any: true}

// add adds a pattern, or returns what is wrong with it.
func (n *names) add(pattern string) error {
	start, isGlob := strings.CutSuffix(pattern, "*")
	switch {
	case pattern == "":
		return fmt.Errorf(`"" matches nothing; write a name, or a pattern such as "checkout-*"`)
	case strings.Contains(start, "*"):
		return fmt.Errorf(`%s: a * stands only at the end, as in "checkout-*"`, quote.Cut(pattern))
	case pattern == "*":
		n.any = true
	case isGlob:
		n.starts = append(n.starts, start)
	default:
		if n.exact == nil {
			n.exact = map[string]bool{}
		}
		n.exact[pattern] = true
	}
	return nil
}

func (n *names) match(name string) bool {
	if n.any {
		return true
	}
	if n.exact[name] {
		return true
	}
	for _, start := range n.starts {
		if name != "" && strings.HasPrefix(name, start) {
			return true
		}
	}
	return false
}
