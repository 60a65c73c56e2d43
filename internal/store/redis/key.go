package redis

import (
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// counterKey returns the key of the counter of l that belongs to identifier in
// namespace:
//
//	rl:{<namespace>:<identifier>}<rate>                     an unnamed FIXED_WINDOW
//	rl:{<namespace>:<identifier>}<strategy><rate>[:<burst>] another unnamed limit
//	rl:{<namespace>:<identifier>}<strategy>:<name>          a named one
//
// The strategy is two letters. All of it is short, as Redis keeps it once for each counter.
// Before that comes the prefix that the options have for all keys. It has no brace, so
// that the first one tells where it ends. The braces make Redis Cluster keep all counters of an identifier in one slot.
// No two counters share a key, because AppendEscaped writes as %XX each byte that
// has a meaning in the key. After the strategy, a name has a colon and a rate a digit.
func counterKey(namespace, identifier string, l *strategy.Limit) string {
	return string(appendCounterKey(make([]byte, 0, 128), namespace, identifier, l)) // room for most
}

func appendCounterKey(b []byte, namespace, identifier string, l *strategy.Limit) []byte {
	b = append(b, "rl:"...)
	b = appendTag(b, namespace, identifier)
	if l.Name != "" {
		return store.AppendEscaped(append(append(b, letters[l.Strategy]...), ':'), l.Name, "{}:")
	}
	if l.Strategy != strategy.FixedWindow {
		b = append(b, letters[l.Strategy]...)
	}
	return l.AppendRate(b)
}

// letters are the strategies in keys.
var letters = [...]string{
	strategy.FixedWindow:          "fw",
	strategy.SlidingWindowCounter: "sc",
	strategy.SlidingWindowLog:     "sl",
	strategy.TokenBucket:          "tb",
	strategy.LeakyBucket:          "lb",
	strategy.GCRA:                 "gc",
}

// numeric reports whether the counter of l is kept as a number, which takes less of Redis'
// memory and time. The number says when its window begins, and not when it was used last,
// so the windows of the counter must always be the same ones: the limit has no name by
// which its counter would survive a change of the period.
func numeric(l *strategy.Limit) bool {
	return l.Strategy == strategy.FixedWindow && (l.Name == "" || l.NamesPeriod) && !l.OnCalendar() && l.Rate.Period%time.Second == 0
}

// appendTag appends {<namespace>:<identifier>}, which alone says what slot the
// counters are in.
func appendTag(b []byte, namespace, identifier string) []byte {
	b = store.AppendEscaped(append(b, '{'), namespace, "{}:")
	b = store.AppendEscaped(append(b, ':'), identifier, "{}") // the first colon ended the namespace
	return append(b, '}')
}

// routeOf returns the part of a counter's key that is the same for all counters of its
// identifier: up to the brace, of which there is only one.
func routeOf(key string) string { return key[:strings.IndexByte(key, '}')+1] }
