package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A quotas has what the headers say of limits whatever was decided. It is used again: most
// answers have the limits of the one before. The zero quotas is ready for use.
type quotas struct {
	limits []strategy.Limit // those of the last answer
	items  []string         // what each of them is called, as an Item of RFC 9651; "": it is left out
	policy []string         // RateLimit-Policy; nil: none. It is not written to, as replies have it
}

// of makes q that of limits.
func (q *quotas) of(limits []strategy.Limit) {
	if slices.Equal(q.limits, limits) {
		return
	}
	q.limits, q.items, q.policy = append(q.limits[:0], limits...), q.items[:0], nil
	var names [strategy.MaxLimits]string
	nameLimits(limits, &names)
	var policies []byte
	for i := range q.limits {
		l := &q.limits[i]
		l.Name = strings.Clone(l.Name) // it may be part of a large body
		if names[i] == "" {
			q.items = append(q.items, "")
			continue
		}
		item := string(appendItem(nil, names[i]))
		q.items = append(q.items, item)
		policies = append(appendNext(policies, item), ";q="...)
		policies = strconv.AppendInt(policies, l.Capacity, 10)
		// A window is whole seconds, and optional: one that is not is left
		// out, as another quota scaled to fit would be untrue. So is one of the
		// calendar, as not all of these are of one length.
		if l.Rate.Period%time.Second == 0 && !l.OnCalendar() {
			policies = append(policies, ";w="...)
			policies = strconv.AppendInt(policies, int64(l.Rate.Period/time.Second), 10)
		}
	}
	if len(policies) > 0 { // an empty list is no field
		q.policy = []string{string(policies)}
	}
}

// setHeaders sets RateLimit-Policy, RateLimit and Retry-After to what
// an answer says of limits, as draft-ietf-httpapi-ratelimit-headers-11 has it.
// Limits in shadow mode and unlimited ones are left out: a caller that heeds
// the headers would hold itself to the former. There is no partition key either:
// it would tell the identifier to whoever reads the answer.
func (q *quotas) setHeaders(h http.Header, a *decide.Answer) {
	d := a.Decision
	if len(d.Statuses) == 0 {
		return
	}
	if !d.Allowed && d.RetryAfter != strategy.Never {
		h.Set("Retry-After", strconv.FormatInt(seconds(d.RetryAfter), 10))
	}
	if q.of(a.Limits); q.policy == nil {
		return
	}
	var room [128]byte // enough for a few limits, without an allocation
	states := room[:0]
	for i, item := range q.items {
		if item == "" {
			continue
		}
		l, status := &a.Limits[i], &d.Statuses[i]
		states = append(appendNext(states, item), ";r="...)
		states = strconv.AppendUint(states, status.Remaining, 10)
		// Retry-After is to be no earlier than any reset: in a denial only the
		// limits that denied have one.
		wait := strategy.Never
		if more, ok := status.MoreAfter(l); ok && d.Allowed {
			wait = more
		}
		if !d.Allowed && !status.Allowed {
			wait = status.RetryAfter
		}
		if wait != strategy.Never {
			states = append(states, ";t="...)
			states = strconv.AppendInt(states, seconds(wait), 10)
		}
	}
	h["Ratelimit-Policy"] = q.policy
	h["Ratelimit"] = []string{string(states)}
}

// appendNext appends an item to the list b.
func appendNext(b []byte, item string) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	return append(b, item...)
}

// nameLimits sets names to those of limits: "" for those in shadow mode and for unlimited
// ones.
func nameLimits(limits []strategy.Limit, names *[strategy.MaxLimits]string) {
	for i := range limits {
		l := &limits[i]
		if l.Shadow || l.Rate.IsUnlimited() {
			continue
		}
		names[i] = l.Counter()
		for slices.Contains(names[:i], names[i]) { // alike in name, and of two strategies
			names[i] += "#" + strconv.Itoa(i)
		}
	}
}

// A problem is the body of a denial, of RFC 9457 and the draft.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Violated []string `json:"violated-policies"` // by their names in the headers
}

// writeDenial answers with why a is denied.
func writeDenial(w http.ResponseWriter, code int, a *decide.Answer) {
	p := problem{
		Type: "https://iana.org/assignments/http-problem-types#quota-exceeded", Title: "over the limit",
		Status: code, Violated: []string{},
	}
	var names [strategy.MaxLimits]string
	nameLimits(a.Limits[:len(a.Decision.Statuses)], &names)
	for i := range a.Decision.Statuses {
		if names[i] != "" && !a.Decision.Statuses[i].Allowed {
			p.Violated = append(p.Violated, names[i])
		}
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // it has nothing that cannot be encoded
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}

// seconds returns d in whole seconds, rounded up.
func seconds(d time.Duration) int64 {
	whole := int64(d / time.Second)
	if d%time.Second > 0 {
		whole++
	}
	return whole
}

// appendItem appends name to b as a String of RFC 9651. The Go client has the same in
// internal/fields, and TestFieldsOfTheClient holds them together. A String holds
// printable ASCII alone: other bytes, and the percent sign, are percent-encoded.
func appendItem(b []byte, name string) []byte {
	const hex = "0123456789ABCDEF"
	b = append(b, '"')
	for i := range len(name) {
		switch c := name[i]; {
		case c < ' ' || c > '~' || c == '%':
			b = append(b, '%', hex[c>>4], hex[c&15])
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
