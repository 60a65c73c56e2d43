package top

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ratelimitd/ratelimitd/internal/account"
)

// busy is a view of a daemon with long names and large numbers.
func busy(keys int) *View {
	v := &View{Decisions: 99_990_000, Denied: 99_990_000, Failed: 99_990_000, Refused: 99_990_000, Calls: 99_990_000, P50: 0.000_123, P99: 0.000_456,
		StoreErrors: 99_990_000, ServersGone: 12, DenyCacheHits: 99_990_000, Keys: 99_990_000, Evictions: 99_990_000, LockContended: 1, LockWait: 0.012_3, HottestShare: 1024}
	for i := range keys {
		name := strings.Repeat("\u00e9", 100+i)
		v.Namespaces = append(v.Namespaces, Namespace{Name: name, Decisions: 1e6, Denied: 1e6})
		v.Limits = append(v.Limits, Limit{Namespace: name, Policy: "default", Limit: name, Asked: 1e6, Denied: 1e6})
		key := account.Key{Namespace: "checkout", Identifier: fmt.Sprint(name, i), PerSecond: 1e6, Policy: "default", Limit: "minute"}
		v.Asked, v.DeniedMost = append(v.Asked, key), append(v.DeniedMost, key)
	}
	return v
}

// TestFits shows views in little room, and in much: all that is there, as far as there is
// room for it, with the limit that denies.
func TestFits(t *testing.T) {
	for _, c := range []struct{ keys, rows, columns, want int }{
		{10, 23, 80, 23}, {10, 50, 200, 50}, {10, 100, 80, 53}, {1, 23, 80, 14}, {0, 23, 80, 13}, {10, 5, 20, 5}, {10, 1, 2, 1}, {10, 0, 0, 53},
	} {
		lines := busy(c.keys).lines(space{c.rows, c.columns})
		if len(lines) != c.want {
			t.Errorf("%+v: %d lines", c, len(lines))
		}
		shown := ""
		for _, l := range lines {
			shown += l.text + "\n"
			if n := utf8.RuneCountInString(l.text); c.columns > 0 && n > c.columns {
				t.Errorf("%+v: %d characters: %s", c, n, l.text)
			}
		}
		if c.rows > 20 && c.keys > 0 && !strings.Contains(shown, "  default/minute\n") {
			t.Errorf("%+v: it does not say which limit denies:\n%s", c, shown)
		}
	}
	for _, text := range []string{busy(0).rates(), busy(0).calls(), busy(0).store(), busy(0).memory(), busy(0).locks()} {
		if len(text) > 80 {
			t.Errorf("%d characters: %s", len(text), text)
		}
	}
}
