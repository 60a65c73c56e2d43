// Package connect says how the commands that are clients reach a daemon: with TLS or
// without, and with which credentials.
package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// TokenVariable is the environment variable that has the bearer token, if
// --token-file is not given.
const TokenVariable = "RATELIMITD_TOKEN"

// Options are the flags of a client. The zero Options connect without TLS and
// without credentials.
type Options struct {
	TLS        bool
	CA         string // a file; "": the authorities of the system
	Cert, Key  string // files; "": no client certificate
	ServerName string // "": the host that it connects to
	TokenFile  string
}

// Flags returns the flags whose values are the fields of o.
func (o *Options) Flags() []flags.Flag {
	all := []flags.Flag{
		{Name: "tls", Value: flags.Bool(&o.TLS), Help: "Connect with TLS. The flags --tls-... do that too."},
		{Name: "tls-ca", Value: flags.Path(&o.CA), Hint: "FILE", Help: "The certificates to trust, as PEM, in place of the system's."},
		// Without environment variables: those of these names say what the daemon shows.
		{Name: "tls-cert", Value: flags.Path(&o.Cert), Hint: "FILE", NoVariable: true, Help: "The client certificate to show, as PEM."},
		{Name: "tls-key", Value: flags.Path(&o.Key), Hint: "FILE", NoVariable: true, Help: "Its key."},
		{Name: "tls-server-name", Value: flags.Text(&o.ServerName), Hint: "HOST", Help: "The name in the server's certificate, if it is not the host of the address."},
		{Name: "token-file", Value: flags.Path(&o.TokenFile), Hint: "FILE", Help: "The file with the bearer token. Without it, the environment variable " + TokenVariable + " may have the token."},
	}
	for i := range all {
		all[i].Group = "TLS and credentials"
	}
	return all
}

// A Link is what Options say, read from the files. The zero Link has neither TLS nor
// credentials.
type Link struct {
	tls   *tls.Config // nil: without TLS
	token string      // "": none
}

// Open reads the files. lookup knows the environment, as os.LookupEnv does. The
// error names the flag that is wrong.
func (o *Options) Open(lookup func(string) (string, bool)) (Link, error) {
	l := Link{}
	var err error
	if l.token, err = o.readToken(lookup); err != nil {
		return Link{}, err
	}
	if !o.TLS && o.CA == "" && o.Cert == "" && o.Key == "" && o.ServerName == "" {
		return l, nil
	}
	l.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName} // as the daemon may be told to
	if o.CA != "" {
		text, err := os.ReadFile(o.CA)
		if err != nil {
			return Link{}, fmt.Errorf("--tls-ca: %w", err)
		}
		l.tls.RootCAs = x509.NewCertPool()
		if !l.tls.RootCAs.AppendCertsFromPEM(text) {
			return Link{}, fmt.Errorf("--tls-ca %s: it has no PEM certificate", quote.Cut(o.CA))
		}
	}
	if (o.Cert == "") != (o.Key == "") {
		return Link{}, errors.New("--tls-cert and --tls-key: give both or neither")
	}
	if o.Cert != "" {
		certificate, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return Link{}, fmt.Errorf("--tls-cert %s and --tls-key %s: %w", quote.Cut(o.Cert), quote.Cut(o.Key), err)
		}
		l.tls.Certificates = []tls.Certificate{certificate}
	}
	return l, nil
}

// readToken returns the token, or "".
func (o *Options) readToken(lookup func(string) (string, bool)) (string, error) {
	if o.TokenFile == "" {
		token, _ := lookup(TokenVariable)
		return checkToken(token, TokenVariable)
	}
	text, err := os.ReadFile(o.TokenFile)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	if strings.TrimSpace(string(text)) == "" {
		return "", fmt.Errorf("--token-file %s: it is empty; write a token of \"ratelimitd token new\" into it", quote.Cut(o.TokenFile))
	}
	return checkToken(string(text), "--token-file "+quote.Cut(o.TokenFile))
}

// checkToken returns a token without spaces around it. The error quotes no token.
func checkToken(text, from string) (string, error) {
	token := strings.TrimSpace(text)
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s: it has a character that no token has; write one token and nothing else", from)
	}
	return token, nil
}

// GRPC returns the options of a gRPC client.
func (l Link) GRPC() []grpc.DialOption {
	transport := insecure.NewCredentials()
	if l.tls != nil {
		transport = credentials.NewTLS(l.tls)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(transport)}
	if l.token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer("Bearer "+l.token)))
	}
	return options
}

// A bearer is the value of the authorization header.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. Without TLS the
// token is sent all the same: a daemon on this machine, or behind a proxy of a mesh,
// needs none.
func (bearer) RequireTransportSecurity() bool { return false }

// Scheme returns that of URLs.
func (l Link) Scheme() string {
	if l.tls != nil {
		return "https"
	}
	return "http"
}

// Dial returns a connection to an address, for a protocol of one's own. It has no
// credentials but a client certificate: Token has the others.
func (l Link) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if l.tls == nil {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	return (&tls.Dialer{Config: l.tls}).DialContext(ctx, "tcp", addr)
}

// Token returns the bearer token, or "".
func (l Link) Token() string { return l.token }

// HTTP has transport connect as l says. Each request needs Authorize too.
func (l Link) HTTP(transport *http.Transport) *http.Transport {
	transport.TLSClientConfig = l.tls
	return transport
}

// Authorize adds the credentials to a request.
func (l Link) Authorize(r *http.Request) {
	if l.token != "" {
		r.Header.Set("Authorization", "Bearer "+l.token)
	}
}
