package envoy

import (
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Unit is a unit of time, by its number in the protocol.
type Unit int32

// The units.
const (
	Second Unit = 1
	Minute Unit = 2
	Hour   Unit = 3
	Day    Unit = 4
	Month  Unit = 5
	Year   Unit = 6
	Week   Unit = 7
)

const day = 24 * time.Hour

var units = map[Unit]struct {
	name   string
	length time.Duration
}{
	Second: {"second", time.Second}, Minute: {"minute", time.Minute}, Hour: {"hour", time.Hour}, Day: {"day", day},
	Week: {"week", 7 * day}, Month: {"month", 30 * day}, Year: {"year", 365 * day},
}

// unitNames lists the names, the shortest unit first.
func unitNames() string {
	all := []Unit{Second, Minute, Hour, Day, Week, Month, Year}
	names := make([]string, len(all))
	for i, u := range all {
		names[i] = units[u].name
	}
	return strings.Join(names, ", ")
}

// A Limit is the limit of a descriptor.
type Limit struct {
	Parts      []Part         // at least one; a request that one of them denies takes of none
	ShadowMode bool           // the answer is OK even over the limit
	QuotaMode  bool           // the same, unless all limits of the request in quota mode are over
	RuleName   string         // the name that Replaces of another limit can have
	Replaces   []string       // the limits that do not apply where this one does
	Metadata   map[string]any // what to tell Envoy while within the limit; may be nil

	overdraw Overdraw // "": that of the domain
	metric   string   // the limit's path in the file
	detailed bool     // whether the metric has the request's values
}

// A Part is one rate of a Limit.
type Part struct {
	strategy.Limit  // of an unlimited one, its Rate.IsUnlimited
	RequestsPerUnit uint32
	Unit            Unit
	Multiplier      uint32 // of the unit; at least 1
}

// Name returns the name in metrics of l, without values of requests.
func (l *Limit) Name() string { return l.metric }

// Unlimited reports whether l allows everything. It counts in metrics.
func (l *Limit) Unlimited() bool { return l.Parts[0].Rate.IsUnlimited() }
