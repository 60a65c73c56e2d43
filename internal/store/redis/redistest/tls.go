package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A TLSServer is a Server that accepts only connections with TLS, from clients with the
// certificate.
type TLSServer struct {
	*Server

	CAFile, CertFile, KeyFile string // for the client and for the server
}

// StartTLS starts a server with a certificate for 127.0.0.1 and counters.test.
func StartTLS(tb testing.TB) *TLSServer {
	tb.Helper()
	dir := tb.TempDir()
	s := &TLSServer{CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	certificate := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "counters.test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"counters.test"},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		s.CAFile: {Type: "CERTIFICATE", Bytes: der}, s.CertFile: {Type: "CERTIFICATE", Bytes: der}, s.KeyFile: {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	if parsed, err := x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	} else {
		roots.AddCert(parsed)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	s.Server = start(tb, &redis.Options{TLSConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}, func(port string) []string {
		return []string{
			"--port", "0", "--tls-port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir(),
			"--tls-cert-file", s.CertFile, "--tls-key-file", s.KeyFile, "--tls-ca-cert-file", s.CAFile,
		}
	})
	s.URL = "rediss://" + s.Addr
	return s
}
