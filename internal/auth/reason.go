package auth

import "sync/atomic"

// A Reason is why a call or a request is refused: the label of its metric.
type Reason uint8

// The reasons. Those up to lastUnauthenticated mean that nobody knows who asks.
const (
	NoCredentials Reason = iota
	UnknownToken
	UnknownCertificate
	ExpiredCertificate
	ForbiddenOperation
	ForbiddenNamespace
	ForbiddenPolicy
	ForeignHost // an HTTP request for a host that is not this one: DNS rebinding
	CrossSite   // an HTTP request that a page of another site makes
	Handshake   // a TLS handshake that failed
	reasonCount
)

const lastUnauthenticated = ExpiredCertificate

var reasons = [reasonCount]struct{ label, text string }{
	NoCredentials:      {"no_credentials", `no credentials; send a token as "authorization: Bearer TOKEN", or connect with a client certificate`},
	UnknownToken:       {"unknown_token", "the bearer token belongs to no client of this server"},
	UnknownCertificate: {"unknown_certificate", "the client certificate belongs to no client of this server"},
	ExpiredCertificate: {"expired_certificate", "the client certificate has expired; connect again with a new one"},
	ForbiddenOperation: {"forbidden_operation", "the operation is not permitted"},
	ForbiddenNamespace: {"forbidden_namespace", "the namespace is not permitted"},
	ForbiddenPolicy:    {"forbidden_policy", "the policy is not permitted"},
	ForeignHost:        {"foreign_host", "the Host header names another server"},
	CrossSite:          {"cross_site", "the request comes from a page of another site"},
	Handshake:          {"tls_handshake", "the TLS handshake failed"},
}

// String returns the label of r.
func (r Reason) String() string { return reasons[r].label }

// Failures count what is refused, by Reason. The zero Failures have counted
// nothing. They are safe for concurrent use.
type Failures struct{ counts [reasonCount]atomic.Uint64 }

// Add counts one.
func (f *Failures) Add(r Reason) { f.counts[r].Add(1) }

// Each calls show with the label and the count of each reason.
func (f *Failures) Each(show func(reason string, n uint64)) {
	for r := range reasonCount {
		show(r.String(), f.counts[r].Load())
	}
}
