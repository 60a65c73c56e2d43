package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// setRateLimitHeaders sets RateLimit-Policy, RateLimit and Retry-After to what
// an answer says of limits, as draft-ietf-httpapi-ratelimit-headers-11 has it.
// Limits in shadow mode and unlimited ones are left out: a caller that heeds
// the headers would hold itself to the former. There is no partition key either:
// it would tell the identifier to whoever reads the answer.
func setRateLimitHeaders(h http.Header, a *decide.Answer) {
	d := a.Decision
	if !d.Allowed && len(d.Statuses) > 0 && d.RetryAfter != strategy.Never {
		h.Set("Retry-After", strconv.FormatInt(seconds(d.RetryAfter), 10))
	}
	var names [strategy.MaxLimits]string
	nameLimits(a, &names)
	var room [2][128]byte // enough for a few limits, without an allocation
	policies, states := room[0][:0], room[1][:0]
	for i := range d.Statuses {
		l, status := &a.Limits[i], &d.Statuses[i]
		if names[i] == "" {
			continue
		}
		policies = appendItem(policies, names[i])
		policies = append(policies, ";q="...)
		policies = strconv.AppendInt(policies, l.Capacity, 10)
		// A window is whole seconds, and optional: one that is not is left
		// out, as another quota scaled to fit would be untrue. So is one of the
		// calendar, as not all of these are of one length.
		if l.Rate.Period%time.Second == 0 && !l.OnCalendar() {
			policies = append(policies, ";w="...)
			policies = strconv.AppendInt(policies, int64(l.Rate.Period/time.Second), 10)
		}

		states = appendItem(states, names[i])
		states = append(states, ";r="...)
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
	if len(policies) > 0 { // an empty list is no field
		h["Ratelimit-Policy"] = []string{string(policies)}
		h["Ratelimit"] = []string{string(states)}
	}
}

// nameLimits sets names to those of the limits that a says something of: "" for those in
// shadow mode and for unlimited ones.
func nameLimits(a *decide.Answer, names *[strategy.MaxLimits]string) {
	for i := range a.Decision.Statuses {
		l := &a.Limits[i]
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
	nameLimits(a, &names)
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

// appendItem appends name to the list b as a String of RFC 9651. The Go client has the same in
// internal/fields, and TestFieldsOfTheClient holds them together. A String holds
// printable ASCII alone: other bytes, and the percent sign, are percent-encoded.
func appendItem(b []byte, name string) []byte {
	const hex = "0123456789ABCDEF"
	if len(b) > 0 {
		b = append(b, ", "...)
	}
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
