package server

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// A pageGuard refuses what pages of other sites ask for. They make requests with the
// reach of the browser that shows them: to the ports of this machine too. A browser says
// where a page is from (Sec-Fetch-Site, Origin), and to which name it believes to speak
// (Host).
type pageGuard struct {
	failures *auth.Failures
	origins  *http.CrossOriginProtection
}

// refuse refuses a request that a page of another site makes, or that is for a name that
// is not the daemon's.
func (g *pageGuard) refuse(w http.ResponseWriter, reason auth.Reason, code int, format string, args ...any) {
	g.failures.Add(reason)
	web.WriteError(w, code, fault.Forbidden(auth.Refuse(reason, format, args...)))
}

// admin has the admin port answer only for names that are the daemon's, and to no
// page of another site. A name that an attacker has point to 127.0.0.1 is neither
// loopback nor configured. Unlike elsewhere it refuses to be read too: a profile costs
// time.
func (g *pageGuard) admin(names hosts, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !names.has(r.Host) {
			g.refuse(w, auth.ForeignHost, http.StatusMisdirectedRequest, "host: %s is not a name of this admin port; ask for 127.0.0.1, or start the daemon with --admin-host", quote.Cut(r.Host))
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" || g.origins.Check(r) != nil {
			g.refuse(w, auth.CrossSite, http.StatusForbidden, "a page of another site may not use the admin port")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// callers keeps pages of other sites from consuming quota, and from reading what
// is configured.
//
// /v1/authorize is not among what it guards: reverse proxies hand on the headers of
// the client that they ask for, so that Origin and Sec-Fetch-Site are normal there and
// say nothing about who asks. Where pages can reach that path, only credentials help:
// a browser sends no bearer token of its own.
func (g *pageGuard) callers(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fromPage := has(r.Header, "Origin") || has(r.Header, "Sec-Fetch-Site")
		if fromPage && g.origins.Check(r) != nil || (fromPage || r.Method == http.MethodGet) && rebound(r) {
			g.refuse(w, auth.CrossSite, http.StatusForbidden, "a page of another site may not ask; call this from a service, and without the headers Origin and Sec-Fetch-Site")
			return
		}
		next.ServeHTTP(w, r)
	}
}

// has reports whether there is a header called name, in its canonical form, as those of a
// request are: http.Header.Get would make that of the name anew in each request.
func has(h http.Header, name string) bool { return len(h[name]) > 0 && h[name][0] != "" }

// rebound reports whether a request may be that of a page which is of this very site, by a
// name that an attacker has point here. One that is known by a token is no such page.
func rebound(r *http.Request) bool {
	if !arrivedOnLoopback(r.Context()) || isLoopbackOrAddress(r.Host) {
		return false
	}
	known := auth.FromContext(r.Context())
	return known == nil || known.Name() == ""
}

// arrivedOnLoopback reports whether a request came over the loopback interface.
func arrivedOnLoopback(ctx context.Context) bool {
	addr, ok := ctx.Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// hostOf returns the host of a Host header, in lower case.
func hostOf(header string) string {
	host, _, err := net.SplitHostPort(header)
	if err != nil { // it has no port
		host = header
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// isLoopbackOrAddress reports whether a Host header is localhost or an address: no
// name that an attacker could have point here.
func isLoopbackOrAddress(header string) bool {
	host := hostOf(header)
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

// hosts are the names of the admin port beside those of loopback, in lower case.
type hosts map[string]bool

// adminHosts returns the names of an admin port at addr.
func adminHosts(addr string, configured []string) hosts {
	names := hosts{}
	for _, name := range append([]string{addr}, configured...) {
		if host := hostOf(name); host != "" {
			names[host] = true
		}
	}
	return names
}

// has reports whether a Host header names the admin port.
func (h hosts) has(header string) bool {
	host := hostOf(header)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback() || h[host]
}
