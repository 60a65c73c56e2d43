package envoy

import (
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// An Overdraw says what becomes of hits if a limit has fewer left. They are over the
// limit in any case.
type Overdraw string

const (
	// OverdrawNone counts none of them.
	OverdrawNone Overdraw = "none"
	// OverdrawOnce counts all of them if the limit has anything left.
	OverdrawOnce Overdraw = "once"
	// OverdrawAlways counts all of them.
	OverdrawAlways Overdraw = "always"
)

// readOverdraw returns what v says, or "" if it says nothing.
func readOverdraw(v yamlfile.Node) Overdraw {
	if v.IsNull() {
		return ""
	}
	switch o := Overdraw(v.Text()); o {
	case OverdrawNone, OverdrawOnce, OverdrawAlways:
		return o
	default:
		v.Problem("overdraw %s is not known; use %s, %s or %s", quote.Cut(v.Text()), OverdrawNone, OverdrawOnce, OverdrawAlways)
		return ""
	}
}
