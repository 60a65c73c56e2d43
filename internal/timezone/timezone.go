// Package timezone finds time zones by their names, such as "Europe/Berlin".
package timezone

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	_ "time/tzdata" // for machines and images without a database of zones

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

const (
	// maxNameBytes is longer than the name of every zone.
	maxNameBytes = 64
	// maxKnown bounds the zones that are kept: the database has some 600 names.
	maxKnown = 1024
)

// Zones that were found, by name. Reading one takes some 20 µs, and each request
// with limits of its own may name one.
var (
	known  sync.Map // string to *time.Location
	knownN atomic.Int64
)

// Load returns the zone called name, in the IANA database, or nil if name is empty. An
// error quotes name and shows a right one. It is safe for concurrent use.
func Load(name string) (*time.Location, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // no zone is no error
	}
	if zone, ok := known.Load(name); ok {
		return zone.(*time.Location), nil
	}
	if len(name) > maxNameBytes || strings.Trim(name, letters) != "" || name == "Local" {
		return nil, unknown(name)
	}
	name = strings.Clone(name) // which may be a part of a whole message
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, unknown(name)
	}
	if knownN.Add(1) <= maxKnown {
		known.Store(name, zone)
	}
	return zone, nil
}

// letters are those of which names are made.
const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-/"

func unknown(name string) error {
	return fmt.Errorf("time_zone %s is not known; write a name of the IANA database, such as \"Europe/Berlin\" or \"UTC\"", quote.Cut(name))
}
