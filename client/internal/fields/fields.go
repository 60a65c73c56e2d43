// Package fields writes what results say of limits into the fields of
// draft-ietf-httpapi-ratelimit-headers-11. Their names are here alone.
package fields

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/client"
)

// The names of the fields, as http.Header has them.
const (
	RateLimit  = "Ratelimit"
	Policy     = "Ratelimit-Policy"
	RetryAfter = "Retry-After"
)

// QuotaExceeded is the type of the problem of a denial.
const QuotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// An Answer is a limiter and what it said.
type Answer struct {
	Limiter *client.Limiter
	Result  client.Result
}

// A Set is the values of the fields; "" of those that are not to be there.
type Set struct {
	RateLimit, Policy, RetryAfter string
	Violated                      []string // the names of the limits that denied
}

// Of returns the fields of what was asked for one request.
func Of(all []Answer) Set {
	var s Set
	var policies, states []byte
	var names []string
	for i := range all {
		a := &all[i]
		if r := &a.Result; !r.Allowed && r.RetryAfter > 0 && r.RetryAfter != client.Never {
			s.RetryAfter = strconv.FormatInt(seconds(r.RetryAfter), 10)
		}
	}
	denied := slices.ContainsFunc(all, func(a Answer) bool { return !a.Result.Allowed })
	for i := range all {
		limits := all[i].Limiter.Limits()
		for j := range all[i].Result.Statuses {
			st := &all[i].Result.Statuses[j]
			if st.Limit == math.MaxUint64 {
				continue // "unlimited"
			}
			var of *client.Limit
			if j < len(limits) {
				of = &limits[j]
			}
			name := nameOf(st, of, j)
			for slices.Contains(names, name) {
				name += "#" + strconv.Itoa(len(names))
			}
			names = append(names, name)
			policies = appendParameter(appendItem(policies, name), 'q', st.Limit)
			if window, ok := windowOf(of); ok {
				policies = appendParameter(policies, 'w', window)
			}
			states = appendParameter(appendItem(states, name), 'r', st.Remaining)
			switch {
			case !st.Allowed:
				s.Violated = append(s.Violated, name)
				if st.RetryAfter != client.Never {
					states = appendParameter(states, 't', uint64(seconds(st.RetryAfter)))
				}
			case !denied && st.ResetAfter > 0:
				states = appendParameter(states, 't', uint64(seconds(st.ResetAfter)))
			}
		}
	}
	s.Policy, s.RateLimit = string(policies), string(states)
	return s
}

// nameOf returns what the limit of a status is called; limit may be nil.
func nameOf(st *client.Status, limit *client.Limit, place int) string {
	switch {
	case st.Name != "":
		return st.Name
	case limit != nil:
		return limit.Strategy.String() + ":" + limit.Rate
	default:
		return "limit-" + strconv.Itoa(place+1)
	}
}

// units are the seconds of the units of rates that are whole seconds, by their names.
var units = []struct {
	names   string
	seconds uint64
}{
	{" s sec secs second seconds ", 1}, {" m min mins minute minutes ", 60}, {" h hr hrs hour hours ", 3600}, {" d day days ", 86400}, {" w week weeks ", 604800},
}

// windowOf returns the period of a limit, if that is whole seconds: the field has no others.
// Months and years differ in length.
func windowOf(l *client.Limit) (seconds uint64, ok bool) {
	if l == nil || l.TimeZone != "" {
		return 0, false
	}
	rate := strings.ToLower(l.Rate)
	_, period, found := strings.Cut(rate, "/")
	if !found {
		if _, period, found = strings.Cut(rate, " per "); !found {
			return 0, false
		}
	}
	period = strings.TrimSpace(period)
	unit := strings.TrimLeft(period, "0123456789_")
	n := uint64(1)
	if digits := strings.ReplaceAll(period[:len(period)-len(unit)], "_", ""); digits != "" {
		var err error
		if n, err = strconv.ParseUint(digits, 10, 32); err != nil {
			return 0, false
		}
	}
	unit = strings.TrimSpace(unit)
	for _, u := range units {
		if unit != "" && strings.Contains(u.names, " "+unit+" ") {
			return n * u.seconds, true
		}
	}
	return 0, false
}

// appendParameter appends an Integer of RFC 9651, which has 15 digits at most.
func appendParameter(b []byte, key byte, n uint64) []byte {
	const most = 999_999_999_999_999
	return strconv.AppendUint(append(b, ';', key, '='), min(n, most), 10)
}

// seconds returns d in whole seconds, rounded up.
func seconds(d time.Duration) int64 {
	whole := int64(d / time.Second)
	if d%time.Second > 0 {
		whole++
	}
	return whole
}

// appendItem appends name to the list b as a String of RFC 9651. That holds printable ASCII
// alone: other bytes, and the percent sign, are percent-encoded.
func appendItem(b []byte, name string) []byte {
	const digits = "0123456789ABCDEF"
	if b != nil {
		b = append(b, ", "...)
	}
	b = append(b, '"')
	for i := range len(name) {
		switch c := name[i]; {
		case c < ' ' || c > '~' || c == '%':
			b = append(b, '%', digits[c>>4], digits[c&15])
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
