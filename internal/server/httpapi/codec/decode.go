// Package codec reads and writes the messages of the API that are decisions, as JSON. It
// does as protojson does, without reflection.
//
// It knows the usual texts alone. Of any other it says so, and protojson finds out what
// that is: a request, or an error in its words. The tests hold the two to be the same.
package codec

import (
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/turns"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// Request sets to, which is empty, to the request that text is. If text is unusual it
// reports false, and to may have any value. Whatever is invalid is unusual, and so are
// escapes, null, numbers that are no row of digits, times and time zones, and more limits
// than are valid. The text is UTF-8. to is given memory again that its limits had before.
func Request(text string, to *ratelimitv1.ShouldAllowRequest) (usual bool) {
	s := scanner{text: text}
	return s.request(to) && s.end()
}

// Batch is Request for a text of many requests.
func Batch(text string, to *ratelimitv1.ShouldAllowBatchRequest) (usual bool) {
	s := scanner{text: text}
	return s.batch(to) && s.end()
}

func (s *scanner) batch(to *ratelimitv1.ShouldAllowBatchRequest) bool {
	var seen fields
	return s.object(func(name string) bool {
		return name == "requests" && seen.first(0) && s.list(func() bool {
			to.Requests = longer(to.Requests)
			turns.Yield(len(to.Requests))
			return len(to.Requests) <= apiv1.MaxBatch && s.request(to.Requests[len(to.Requests)-1])
		})
	})
}

func (s *scanner) request(to *ratelimitv1.ShouldAllowRequest) bool {
	var seen fields
	return s.object(func(name string) bool {
		switch name {
		case "namespace":
			return seen.first(0) && s.string(&to.Namespace)
		case "identifier":
			return seen.first(1) && s.string(&to.Identifier)
		case "limits":
			return seen.first(2) && s.list(func() bool {
				to.Limits = longer(to.Limits)
				return len(to.Limits) <= strategy.MaxLimits && s.limit(to.Limits[len(to.Limits)-1])
			})
		case "policy":
			return seen.first(3) && s.string(&to.Policy)
		case "cost":
			to.Cost = new(uint64)
			return seen.first(4) && s.number(to.Cost)
		case "dryRun", "dry_run":
			return seen.first(5) && s.bool(&to.DryRun)
		case "mode":
			return seen.first(6) && enum(s, modes, &to.Mode)
		}
		return false
	})
}

func (s *scanner) limit(to *ratelimitv1.Limit) bool {
	var seen fields
	return s.object(func(name string) bool {
		switch name {
		case "rate":
			return seen.first(0) && s.string(&to.Rate)
		case "strategy":
			return seen.first(1) && enum(s, strategies, &to.Strategy)
		case "burst":
			return seen.first(2) && s.number(&to.Burst)
		case "name":
			return seen.first(3) && s.string(&to.Name)
		case "maxDebt", "max_debt":
			to.MaxDebt = new(uint64)
			return seen.first(4) && s.number(to.MaxDebt)
		}
		return false
	})
}

// longer returns a list with one more message: the one that was there before it was
// emptied, or a new one.
func longer[T any](list []*T) []*T {
	n := len(list)
	if n == cap(list) {
		return append(list, new(T))
	}
	if list = list[:n+1]; list[n] == nil {
		list[n] = new(T)
	}
	return list
}

// fields are those of a message that were seen. (None may come twice.)
type fields uint8

// first notes that a field is seen, and reports whether for the first time.
func (f *fields) first(field int) bool {
	before := *f
	*f |= 1 << field
	return *f != before
}

// The values of enumerations, by their names: as the API has them, and in lower case, as
// configuration does.
var (
	strategies = named[ratelimitv1.Strategy](ratelimitv1.Strategy_value)
	modes      = named[ratelimitv1.Mode](ratelimitv1.Mode_value)
)

func named[E ~int32](values map[string]int32) map[string]E {
	all := map[string]E{}
	for name, value := range values {
		all[name], all[strings.ToLower(name)] = E(value), E(value)
	}
	return all
}

// enum reads one of the names of an enumeration.
func enum[E ~int32](s *scanner, values map[string]E, to *E) bool {
	var name string
	if !s.string(&name) {
		return false
	}
	value, ok := values[name]
	*to = value
	return ok
}
