package server

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/durations"
	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// authorize answers a reverse proxy that asks whether to let a request pass:
// with 200, or with 429 or the status that it asked for. The method and the
// body say nothing, as proxies hand on those of the request they hold.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	defer s.metrics.latency[methodAuthorize].Since(durations.Start())
	q, wrong := s.parseAuthorize(r)
	if err := wrong.err(); err != nil {
		s.metrics.refused.Inc()
		writeError(w, httpCode(err), err)
		return
	}
	response, err := s.decideHTTP(w, r, &q.request)
	switch {
	case err != nil:
		writeError(w, httpCode(err), err)
	case response.GetAllowed():
		w.WriteHeader(http.StatusOK)
	default:
		http.Error(w, "over the limit", q.denyStatus)
	}
}

// An authorizeQuery is what a proxy asks.
type authorizeQuery struct {
	request    ratelimitv1.ShouldAllowRequest
	denyStatus int
}

// The parameters. Any other is refused: one that is misspelt would else change
// who is limited, in silence.
var authorizeParameters = []string{"namespace", "policy", "rate", "strategy", "burst", "cost",
	"identifier", "identifier_header", "identifier_from", "trusted_proxies", "ipv6_prefix", "deny_status"}

func (s *Server) parseAuthorize(r *http.Request) (q *authorizeQuery, wrong violations) {
	given, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		wrong.add("query", fmt.Sprintf("%v; percent-encode what is not a letter or a digit", err))
		return nil, wrong
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch {
		case !slices.Contains(authorizeParameters, name):
			wrong.add("query", fmt.Sprintf("unknown parameter %.64q; there are %s", name, strings.Join(authorizeParameters, ", ")))
		case len(given[name]) > 1:
			wrong.add(name, fmt.Sprintf("given %d times; give it once", len(given[name])))
		}
	}
	if wrong != nil {
		return nil, wrong
	}

	p := parameters{given, &wrong}
	q = &authorizeQuery{denyStatus: int(p.number("deny_status", 400, 599, http.StatusTooManyRequests))}
	q.request.Namespace, q.request.Policy = given.Get("namespace"), given.Get("policy")
	if given.Has("cost") {
		cost := p.number("cost", 0, 1<<63, 1)
		q.request.Cost = &cost
	}
	if p.oneOf("policy", "rate") == "rate" {
		q.request.Limits = p.limit(s.maxLogCount)
	} else {
		p.onlyWith("rate", "strategy", "burst")
	}
	q.request.Identifier = p.identifier(r)
	return q, wrong
}

// parameters are those of a query, and what is wrong with them.
type parameters struct {
	url.Values
	wrong *violations
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
		p.wrong.add(names[0], fmt.Sprintf("give exactly one of %s; there are %d", strings.Join(names, ", "), n))
		return ""
	}
	return given
}

// onlyWith refuses names, which mean nothing without what.
func (p parameters) onlyWith(what string, names ...string) {
	for _, name := range names {
		if p.Has(name) {
			p.wrong.add(name, fmt.Sprintf("%.64q means nothing without %s", p.Get(name), what))
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
		p.wrong.add(name, fmt.Sprintf("%.64q is no whole number of %d to %d; write such as %d", p.Get(name), least, most, otherwise))
	}
	return n
}

// limit returns the limit that the query brings. It is read here so that what
// is wrong is told by the names of the query.
func (p parameters) limit(maxLogCount int64) []*ratelimitv1.Limit {
	spec := strategy.Spec{Rate: p.Get("rate"), Strategy: strategy.FixedWindow, Burst: p.number("burst", 1, strategy.MaxBurst, 0)}
	if p.Has("strategy") {
		var err error
		if spec.Strategy, err = strategy.Parse(p.Get("strategy")); err != nil {
			p.wrong.add("strategy", err.Error())
			return nil
		}
	}
	_, problems := strategy.NewLimit(spec, maxLogCount)
	for _, problem := range problems {
		p.wrong.add(problem.Field, problem.Problem)
	}
	return []*ratelimitv1.Limit{{Rate: spec.Rate, Strategy: ratelimitv1.Strategy(spec.Strategy), Burst: spec.Burst}}
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
			p.wrong.add(source, fmt.Sprintf("the request has %d headers %.64q; it takes exactly one, not empty", len(values), name))
			return ""
		}
		return values[0]
	case "identifier_from":
		if from := p.Get(source); from != "client_ip" {
			p.wrong.add(source, fmt.Sprintf(`%.64q; write "client_ip"`, from))
			return ""
		}
		proxies := p.number("trusted_proxies", 0, 32, 1)
		bits := p.number("ipv6_prefix", 1, 128, 128)
		if *p.wrong != nil {
			return ""
		}
		addr, err := clientAddr(r.RemoteAddr, r.Header.Values("X-Forwarded-For"), int(proxies))
		if err != nil {
			p.wrong.add(source, err.Error())
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
		return netip.Addr{}, fmt.Errorf("X-Forwarded-For has %.64q where the client's address should be; have the proxy send such as 192.0.2.1", s)
	}
	return addr, nil
}
