// Package identity finds who makes a request in what a transport knows of it.
package identity

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Anonymous is the identifier of all requests that have none, so that leaving it out frees
// nobody from a limit.
const Anonymous = "anonymous"

// prefix6 is how much of an IPv6 address is one client: the network that a site gets. Within
// it each may choose addresses freely.
const prefix6 = 64

// Proxies are the networks of the proxies whose X-Forwarded-For is believed.
type Proxies []netip.Prefix

// MustTrust returns the networks of the names: "10.0.0.0/8", or one address. It panics if
// one is neither, as that is a mistake in the program.
func MustTrust(names []string) Proxies {
	all := make(Proxies, 0, len(names))
	for _, name := range names {
		network, err := netip.ParsePrefix(name)
		if err != nil {
			one, wrong := netip.ParseAddr(name)
			if wrong != nil {
				panic(fmt.Sprintf("ratelimitd: trusted proxy %q: write a network or an address, such as 10.0.0.0/8", name))
			}
			network = netip.PrefixFrom(one, one.BitLen())
		}
		if mapped := network.Bits() - 96; network.Addr().Is4In6() && mapped >= 0 {
			network = netip.PrefixFrom(network.Addr().Unmap(), mapped)
		}
		all = append(all, network.Masked())
	}
	return all
}

func (t Proxies) has(a netip.Addr) bool {
	for _, network := range t {
		if network.Contains(a) {
			return true
		}
	}
	return false
}

// ClientAddress returns the address of the client of a request that peer has sent, with the
// values of X-Forwarded-For. Each trusted proxy has added the address it was asked from on
// the right, so that it counts from there: what a client itself writes is on the left. It
// is "" if peer is no address.
func (t Proxies) ClientAddress(peer string, forwarded []string) string {
	client, ok := parse(peer)
	if !ok {
		return ""
	}
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for i := len(hops) - 1; i >= 0 && t.has(client); i-- {
		hop, ok := parse(strings.TrimSpace(hops[i]))
		if !ok {
			break
		}
		client = hop
	}
	if client.Is4() {
		return client.String()
	}
	return netip.PrefixFrom(client, prefix6).Masked().String()
}

// parse returns the address that s is, with or without a port: one form for all the ways to
// write it.
func parse(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		with, wrong := netip.ParseAddrPort(s)
		if wrong != nil {
			return netip.Addr{}, false
		}
		a = with.Addr()
	}
	return a.Unmap().WithZone(""), true
}

// APIKey returns the identifier of a key, which is not to be seen in it; "" of none.
func APIKey(key string) string { return hashed("key:", key) }

// hashed returns a prefix and enough of the hash of a secret to tell it from others.
func hashed(prefix, secret string) string {
	if secret == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(secret))
	return prefix + hex.EncodeToString(sum[:16])
}

// BearerSubject returns the subject of the JWT in an Authorization header, which it does not
// verify; or else the hash of the token. It is "" if there is no bearer token.
func BearerSubject(authorization string) string {
	kind, token, ok := strings.Cut(authorization, " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(kind, "bearer") {
		return ""
	}
	if parts := strings.Split(token, "."); len(parts) == 3 {
		var claims struct {
			Subject string `json:"sub"`
		}
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil && json.Unmarshal(text, &claims) == nil && claims.Subject != "" {
			return claims.Subject
		}
	}
	return hashed("token:", token)
}
