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
//	rl:{<namespace>:<identifier>}:<name>:<strategy>             a named limit
//	rl:{<namespace>:<identifier>}:<strategy>:<rate>[:<burst>]   an unnamed one
//	rl:{<namespace>:<identifier>}:fw:<rate>                     a numeric one
//
// Before that comes the prefix that the options have for all keys. It has no brace, so
// that the first one tells where it ends. The braces make Redis Cluster keep all counters of an identifier in one slot.
// No two counters share a key, because AppendEscaped writes as %XX each byte that
// has a meaning in the key. A named and an unnamed limit differ in the second
// part: only a rate has a slash.
func counterKey(namespace, identifier string, l *strategy.Limit) string {
	return string(appendCounterKey(make([]byte, 0, 128), namespace, identifier, l)) // room for most
}

func appendCounterKey(b []byte, namespace, identifier string, l *strategy.Limit) []byte {
	b = append(b, "rl:"...)
	b = append(appendTag(b, namespace, identifier), ':')
	switch {
	case numeric(l):
		return l.Rate.Append(append(b, "fw:"...))
	case l.Name == "":
		return l.AppendCounter(b)
	}
	b = store.AppendEscaped(b, l.Name, "{}:")
	b = append(b, ':')
	return append(b, l.Strategy.String()...)
}

// numeric reports whether the counter of l is kept as a number, which takes less of Redis'
// memory and time. The number says when its window begins, and not when it was used last,
// so the windows of the counter must always be the same ones: the limit has no name, by
// which its counter would survive a change of the period.
func numeric(l *strategy.Limit) bool {
	return l.Strategy == strategy.FixedWindow && l.Name == "" && !l.OnCalendar() && l.Rate.Period%time.Second == 0
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
