package httpapi

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
)

// Authorize answers a reverse proxy that asks whether to let a request pass:
// with 200, or with 429 or the status that it asked for. The method and the
// body say nothing, as proxies hand on those of the request they hold. Why there is no
// answer is for the log: proxies hand that on to the end client.
func (a *API) Authorize(w http.ResponseWriter, r *http.Request) {
	defer a.Latency.Of(PathAuthorize).Since(histogram.Start())
	var wrong decide.InvalidError
	request, denyStatus := parseAuthorize(r, &wrong)
	if wrong.Violations != nil {
		web.WriteError(w, 0, a.Faults.Hide(PathAuthorize, a.Core.RefuseInvalid(&wrong)))
		return
	}
	batch := decide.NewBatch()
	defer batch.Free()
	batch.Requests = append(batch.Requests, request)
	w.Header()["Cache-Control"] = noStore
	a.Core.Decide(r.Context(), batch)
	answer := &batch.Answers[0]
	if answer.Err != nil {
		web.WriteError(w, 0, a.Faults.Hide(PathAuthorize, inQuery(answer.Err)))
		return
	}
	new(quotas).setHeaders(w.Header(), answer)
	switch {
	case answer.Decision.Allowed:
		w.WriteHeader(http.StatusOK)
	default:
		writeDenial(w, denyStatus, answer)
	}
}

// inQuery returns err with the fields called as in the query: that has one limit,
// and so its fields are parameters.
func inQuery(err error) error {
	return decide.RenameFields(err, func(field string) string { return strings.TrimPrefix(field, "limits[0].") })
}

// The parameters. Any other is refused: one that is misspelt would else change
// who is limited, in silence.
var authorizeParameters = []string{"namespace", "policy", "rate", "strategy", "burst", "time_zone", "anchor_day", "cost",
	"identifier", "identifier_header", "identifier_from", "trusted_proxies", "ipv6_prefix", "deny_status"}

// parseAuthorize returns what a proxy asks, and the HTTP status that it wants for
// a denial.
func parseAuthorize(r *http.Request, wrong *decide.InvalidError) (request decide.Request, denyStatus int) {
	given, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		wrong.Add("query", "%v; percent-encode what is not a letter or a digit", err)
		return request, 0
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch {
		case !slices.Contains(authorizeParameters, name):
			wrong.Add("query", "unknown parameter %s; there are %s", quote.Cut(name), strings.Join(authorizeParameters, ", "))
		case len(given[name]) > 1:
			wrong.Add(name, "given %d times; give it once", len(given[name]))
		}
	}
	if wrong.Violations != nil {
		return request, 0
	}

	p := parameters{given, wrong}
	denyStatus = int(p.number("deny_status", 400, 599, http.StatusTooManyRequests))
	request.Namespace, request.Policy = given.Get("namespace"), given.Get("policy")
	request.Cost = p.number("cost", 0, 1<<63, 1)
	if p.oneOf("policy", "rate") == "rate" {
		request.Specs = p.limit()
	} else {
		p.onlyWith("rate", "strategy", "burst", "time_zone", "anchor_day")
	}
	request.Identifier = p.identifier(r)
	return request, denyStatus
}

// parameters are those of a query, and what is wrong with them.
type parameters struct {
	url.Values
	wrong *decide.InvalidError
}

// oneOf returns the one of names that is given.
func (p parameters) oneOf(names ...string) (given string) {
	n := 0
	for _, name := range names {
		if p.Has(name) {
			given = name
			n++
		}
	}
	if n != 1 {
		p.wrong.Add(names[0], "give exactly one of %s; there are %d", strings.Join(names, ", "), n)
		return ""
	}
	return given
}

// onlyWith refuses names, which mean nothing without what.
func (p parameters) onlyWith(what string, names ...string) {
	for _, name := range names {
		if p.Has(name) {
			p.wrong.Add(name, "%s means nothing without %s", quote.Cut(p.Get(name)), what)
		}
	}
}

// number returns the parameter called name, or otherwise if it is not given.
func (p parameters) number(name string, least, most, otherwise uint64) uint64 {
	if !p.Has(name) {
		return otherwise
	}
	n, err := strconv.ParseUint(p.Get(name), 10, 64)
	if err != nil || n < least || n > most {
		p.wrong.Add(name, "%s is not a whole number from %d to %d; write one such as %d", quote.Cut(p.Get(name)), least, most, otherwise)
	}
	return n
}

// limit returns the limit that the query brings.
func (p parameters) limit() []strategy.Spec {
	spec := strategy.Spec{
		Rate: p.Get("rate"), Strategy: strategy.FixedWindow, Burst: p.number("burst", 1, strategy.MaxBurst, 0),
		AnchorDay: uint32(p.number("anchor_day", 1, strategy.MaxAnchorDay, 0)),
	}
	var err error
	if spec.Zone, err = timezone.Load(p.Get("time_zone")); err != nil {
		p.wrong.Add("time_zone", "%v", err)
	}
	if p.Has("strategy") {
		if spec.Strategy, err = strategy.Parse(p.Get("strategy")); err != nil {
			p.wrong.Add("strategy", "%v", err)
		}
	}
	return []strategy.Spec{spec}
}

// identifier returns who is limited, from the one source that is given.
func (p parameters) identifier(r *http.Request) string {
	source := p.oneOf("identifier", "identifier_header", "identifier_from")
	if source != "identifier_from" {
		p.onlyWith("identifier_from", "trusted_proxies", "ipv6_prefix")
	}
	switch source {
	case "identifier":
		return p.Get(source)
	case "identifier_header":
		name := p.Get(source)
		values := r.Header.Values(name)
		if len(values) != 1 || values[0] == "" {
			p.wrong.Add(source, "the request has %d headers %s; it takes exactly one, not empty", len(values), quote.Cut(name))
			return ""
		}
		return values[0]
	case "identifier_from":
		if from := p.Get(source); from != "client_ip" {
			p.wrong.Add(source, `%s; write "client_ip"`, quote.Cut(from))
			return ""
		}
		proxies := p.number("trusted_proxies", 0, 32, 1)
		bits := p.number("ipv6_prefix", 1, 128, 128)
		if p.wrong.Violations != nil {
			return ""
		}
		addr, err := clientAddr(r.RemoteAddr, r.Header.Values("X-Forwarded-For"), int(proxies))
		if err != nil {
			p.wrong.Add(source, "%v", err)
			return ""
		}
		if addr.Is6() {
			prefix, _ := addr.Prefix(int(bits)) // fails of no IPv6 address
			addr = prefix.Addr()
		}
		return addr.String()
	default:
		return ""
	}
}

// clientAddr returns the address of the client, with so many trusted proxies
// between it and us. Each of them adds to the right of X-Forwarded-For the
// address that it was called from, and peer is that which we were called from:
// so the client's is the one that the outermost trusted proxy has seen. Whatever
// is to the left of it came from the client and is not even read.
func clientAddr(peer string, forwardedFor []string, proxies int) (netip.Addr, error) {
	if proxies == 0 {
		return parseAddr(peer)
	}
	left := proxies
	for _, last := range slices.Backward(forwardedFor) {
		for line, more := last, true; more; {
			entry := line
			if comma := strings.LastIndexByte(line, ','); comma >= 0 {
				line, entry = line[:comma], line[comma+1:]
			} else {
				more = false
			}
			if left--; left == 0 {
				return parseAddr(strings.TrimSpace(entry))
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("X-Forwarded-For has %d addresses, and trusted_proxies is %d: have the proxy send the header, or lower trusted_proxies", proxies-left, proxies)
}

// parseAddr returns the address that s is, with or without a port.
func parseAddr(s string) (netip.Addr, error) {
	addr, ok := ipaddr.ParseWithPort(s)
	if !ok {
		return netip.Addr{}, fmt.Errorf("X-Forwarded-For has %s where the client's address should be; make the proxy send one such as 192.0.2.1", quote.Cut(s))
	}
	return addr, nil
}
