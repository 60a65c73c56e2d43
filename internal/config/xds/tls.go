package xds

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/textfile"
)

// TLS says how the server and the daemon know one another. The nil TLS is a connection
// without it.
type TLS struct {
	CAFile            string // PEM; "": the system's authorities
	CertFile, KeyFile string // PEM; "": the daemon shows none
	ServerName        string // in the server's certificate; "": the host of its address
}

// credentials reads the files. They may change, and need not be there before the server.
func (t *TLS) credentials() (credentials.TransportCredentials, error) {
	if t == nil {
		return insecure.NewCredentials(), nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		data, err := textfile.Read(t.CAFile, textfile.MaxPEM)
		if err != nil {
			return nil, fmt.Errorf("--xds-tls-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("--xds-tls-ca %s: it has no PEM certificate", quote.Cut(t.CAFile))
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("--xds-tls-cert and --xds-tls-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c), nil
}
