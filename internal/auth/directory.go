package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// maxTokenBytes is more than any token has: what a stranger sends is not hashed
// beyond it.
const maxTokenBytes = 256

// A Directory lists the clients of a daemon. It does not change once it was read,
// so it is safe for concurrent use.
type Directory struct {
	tokens   map[uint64][]token // by the beginning of the hash
	sans     map[string]*Caller // by a DNS name in lower case, or by a URI
	prefixes []prefix           // of SPIFFE IDs, the longest first
	any      *Caller            // whom any other certificate belongs to; nil: to nobody
	clients  int
	unnamed  bool // whether it knows no clients by name
}

// A token is the SHA-256 of a bearer token, and whose it is.
type token struct {
	hash   [sha256.Size]byte
	caller *Caller
}

// A prefix is the beginning of SPIFFE IDs, with a slash at the end.
type prefix struct {
	text   string
	caller *Caller
}

// Certified returns the Directory of a daemon that knows no clients by name: each
// one with a certificate that an authority of the daemon has signed may do
// everything. If there are sans, the certificate must have one of them.
func Certified(sans []string) (*Directory, error) {
	d := &Directory{sans: map[string]*Caller{}, unnamed: true}
	caller := Anonymous(Decide, Charge, Refund, Reset, Inspect, Admin)
	caller.name = "any with a certificate"
	if len(sans) == 0 {
		d.any = caller
	}
	for _, san := range sans {
		if err := d.addSAN(san, caller); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Clients returns how many clients d lists.
func (d *Directory) Clients() int { return d.clients }

// Unnamed reports whether d is one of Certified.
func (d *Directory) Unnamed() bool { return d.unnamed }

// NeedsCertificate reports whether no client of d has a token.
func (d *Directory) NeedsCertificate() bool { return len(d.tokens) == 0 }

// HasCertificates reports whether a client of d is known by its certificate.
func (d *Directory) HasCertificates() bool {
	return d.any != nil || len(d.sans) > 0 || len(d.prefixes) > 0
}

// Find returns who shows these credentials: the value of an authorization header,
// "" if there is none, and a verified certificate, nil if there is none. One that
// belongs to a client is enough: a proxy may hand on the header of somebody else.
// The error is a *Refusal.
func (d *Directory) Find(authorization string, certificate *x509.Certificate) (*Caller, error) {
	bearer, hasToken := cutBearer(authorization)
	if hasToken {
		if c := d.byToken(bearer); c != nil {
			return c, nil
		}
	}
	reason := NoCredentials
	switch {
	case certificate != nil && time.Now().After(certificate.NotAfter): // the connection is older
		reason = ExpiredCertificate
	case certificate != nil:
		if c := d.byCertificate(certificate); c != nil {
			return c, nil
		}
		reason = UnknownCertificate
	}
	if hasToken {
		reason = UnknownToken
	}
	return nil, &Refusal{Reason: reason}
}

// cutBearer returns the token in an authorization header.
func cutBearer(authorization string) (string, bool) {
	const scheme = "bearer "
	if len(authorization) <= len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) {
		return "", false
	}
	return authorization[len(scheme):], true
}

// byToken returns whose a token is, or nil. The hash is computed anew for each call:
// that takes a tenth of a microsecond, and so no token needs to be kept. The map is
// read by the beginning of the hash, whose timing says nothing about a token that is
// random; the rest is compared in constant time.
func (d *Directory) byToken(text string) *Caller {
	if len(text) > maxTokenBytes {
		return nil
	}
	var bytes [maxTokenBytes]byte // on the stack: a conversion would allocate
	hash := sha256.Sum256(bytes[:copy(bytes[:], text)])
	for i := range d.tokens[start(&hash)] {
		t := &d.tokens[start(&hash)][i]
		if subtle.ConstantTimeCompare(t.hash[:], hash[:]) == 1 {
			return t.caller
		}
	}
	return nil
}

// start returns the beginning of a hash.
func start(hash *[sha256.Size]byte) uint64 { return binary.BigEndian.Uint64(hash[:8]) }

// byCertificate returns whose a certificate is, or nil.
func (d *Directory) byCertificate(certificate *x509.Certificate) *Caller {
	for _, name := range certificate.DNSNames {
		if c := d.sans[strings.ToLower(name)]; c != nil {
			return c
		}
	}
	for _, uri := range certificate.URIs {
		text := uri.String()
		if c := d.sans[text]; c != nil {
			return c
		}
		if !isPlainSPIFFE(text) {
			continue
		}
		for _, p := range d.prefixes {
			if strings.HasPrefix(text, p.text) {
				return p.caller
			}
		}
	}
	return d.any
}

const spiffe = "spiffe://"

// isPlainSPIFFE reports whether uri is a SPIFFE ID without parts that could mean
// another one, such as .. or %2e.
func isPlainSPIFFE(uri string) bool {
	id, ok := strings.CutPrefix(uri, spiffe)
	if !ok || strings.ContainsAny(id, "%?#\\") {
		return false
	}
	return !slices.ContainsFunc(strings.Split(id, "/"), func(part string) bool { return part == "" || part == "." || part == ".." })
}

// addSAN makes certificates with a subject alternative name be those of c. It is a
// DNS name, a URI, or the beginning of SPIFFE IDs with /* at the end.
func (d *Directory) addSAN(san string, c *Caller) error {
	if start, isPrefix := strings.CutSuffix(san, "*"); isPrefix {
		if !strings.HasSuffix(start, "/") || !isPlainSPIFFE(strings.TrimSuffix(start, "/")) {
			return fmt.Errorf("%s: a * stands only at the end of a SPIFFE ID and after a slash, as in spiffe://example.org/shop/*", quote.Cut(san))
		}
		if slices.ContainsFunc(d.prefixes, func(p prefix) bool { return p.text == start }) {
			return fmt.Errorf("%s is there twice; a certificate belongs to one client", quote.Cut(san))
		}
		d.prefixes = append(d.prefixes, prefix{start, c})
		return nil
	}
	key := san
	switch u, err := url.Parse(san); {
	case san == "" || strings.ContainsAny(san, " *@"):
		return fmt.Errorf("%s is neither a DNS name nor a URI; write one such as checkout.example.org or spiffe://example.org/checkout", quote.Cut(san))
	case strings.Contains(san, ":"):
		if err != nil || u.Host == "" {
			return fmt.Errorf("%s is not a URI; write one such as spiffe://example.org/checkout", quote.Cut(san))
		}
	default:
		key = strings.ToLower(san)
	}
	if d.sans[key] != nil {
		return fmt.Errorf("%s is there twice; a certificate belongs to one client", quote.Cut(san))
	}
	d.sans[key] = c
	return nil
}
