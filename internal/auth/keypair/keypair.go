// Package keypair has the certificate that the daemon shows, its key, and the
// authorities that it trusts for the certificates of its clients. It reads them
// again when their files change.
package keypair

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/textfile"
)

// Files name the files, which are PEM. They need not be there yet.
type Files struct {
	Cert, Key string // the chain, with the daemon's own certificate first, and its key
	ClientCA  string // "": no client is asked for a certificate
}

// Options say how to make a Pair. All but MinVersion are required.
type Options struct {
	Files
	MinVersion uint16 // of TLS; 0: 1.3
	Logger     *slog.Logger
	Registry   prometheus.Registerer
}

// A Pair is what is in force of Files. What cannot be used is refused whole: the
// log says why, and what was in force stays so. As long as nothing was, handshakes
// fail. New makes it, and Run keeps it up to date. It is safe for concurrent use.
type Pair struct {
	o       Options
	inForce atomic.Pointer[material]
	refused string       // why the files were refused last; "": they were not
	absent  lograte.Gate // handshakes before there was a certificate

	applied, refusals prometheus.Counter
	expiry            prometheus.Gauge
}

// material is what one reading of the files gave.
type material struct {
	certificate tls.Certificate
	authorities *x509.CertPool // nil: none
	contents    [3][]byte      // of the files
}

// New returns a Pair, and reads the files.
func New(o Options) *Pair {
	if o.MinVersion == 0 {
		o.MinVersion = tls.VersionTLS13
	}
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_tls_reloads_total",
		Help: "Readings of changed files of TLS, by whether they were applied, or refused because they cannot be used.",
	}, []string{"result"})
	p := &Pair{
		o:        o,
		applied:  reloads.WithLabelValues("applied"),
		refusals: reloads.WithLabelValues("refused"),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_tls_certificate_expiry_timestamp_seconds",
			Help: "When the certificate in force expires, in seconds since the Unix epoch. 0: there is none yet, and handshakes fail.",
		}),
	}
	o.Registry.MustRegister(reloads, p.expiry)
	p.look(false)
	return p
}

// Run reads the files again when they change, until ctx ends. A signal on told
// makes it read them at once.
func (p *Pair) Run(ctx context.Context, told <-chan os.Signal) {
	var dirs []string
	for _, file := range []string{p.o.Cert, p.o.Key, p.o.ClientCA} {
		if file != "" {
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	slices.Sort(dirs)
	reload.Notices{Of: "the files of TLS", Dirs: slices.Compact(dirs), Logger: p.o.Logger}.Run(ctx, told, func(told bool) time.Duration { p.look(told); return 0 })
}

// look reads the files, and puts what they hold in force.
func (p *Pair) look(told bool) {
	before := p.inForce.Load()
	m, err := p.o.read(time.Now())
	switch {
	case err != nil:
		p.refuse(err, told)
		return
	case before != nil && slices.EqualFunc(before.contents[:], m.contents[:], bytes.Equal):
		p.refused = ""
		return
	}
	p.refused = ""
	p.inForce.Store(m)
	p.applied.Inc()
	leaf := m.certificate.Leaf
	p.expiry.Set(float64(leaf.NotAfter.Unix()))
	p.o.Logger.Info("the TLS certificate is in force", "file", p.o.Cert, "serial", leaf.SerialNumber.String(), "expires", leaf.NotAfter.UTC().Format(time.RFC3339))
}

// refuse logs why the files are refused: once, and again if the process was told to
// look.
func (p *Pair) refuse(err error, told bool) {
	if err.Error() == p.refused && !told {
		return
	}
	p.refused = err.Error()
	p.refusals.Inc()
	if p.inForce.Load() == nil {
		p.o.Logger.Error("there is no TLS certificate yet, so every handshake fails; put the files in their place, and they are read", "error", err)
		return
	}
	p.o.Logger.Error("the files of TLS are refused and the old certificate stays in force; correct the files, and they are read again", "error", err)
}

// read reads the files. The error says which cannot be used, and why.
func (o *Options) read(now time.Time) (*material, error) {
	m := &material{}
	var wrong []error
	for i, file := range []struct{ flag, name string }{{"tls-cert", o.Cert}, {"tls-key", o.Key}, {"tls-client-ca", o.ClientCA}} {
		if file.name == "" {
			continue
		}
		var err error
		if m.contents[i], err = textfile.Read(file.name, textfile.MaxPEM); err != nil {
			wrong = append(wrong, fmt.Errorf("--%s: %w", file.flag, err))
		}
	}
	if wrong != nil {
		return nil, errors.Join(wrong...)
	}
	var err error
	if m.certificate, err = tls.X509KeyPair(m.contents[0], m.contents[1]); err != nil {
		return nil, fmt.Errorf("--tls-cert %s and --tls-key %s: %w", quote.Cut(o.Cert), quote.Cut(o.Key), err)
	}
	if leaf := m.certificate.Leaf; now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("--tls-cert %s: the certificate expired at %s; get a new one", quote.Cut(o.Cert), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if o.ClientCA != "" {
		m.authorities = x509.NewCertPool()
		if !m.authorities.AppendCertsFromPEM(m.contents[2]) {
			return nil, fmt.Errorf("--tls-client-ca %s: it has no PEM certificate", quote.Cut(o.ClientCA))
		}
	}
	return m, nil
}

// errAbsent ends a handshake before there is a certificate.
var errAbsent = errors.New("the server has no certificate yet")

// Server returns the configuration of a listener that speaks protocols, in the terms
// of ALPN. While required reports true, a client without a certificate fails in the
// handshake; otherwise it may show one, which must then be valid.
func (p *Pair) Server(required func() bool, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: p.o.MinVersion,
		NextProtos: protocols,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			m := p.inForce.Load()
			if m == nil {
				if handshakes := p.absent.Pass(time.Now()); handshakes > 0 {
					p.o.Logger.Error("a TLS handshake is refused: there is no certificate yet", "cert", p.o.Cert, "key", p.o.Key, "peer", hello.Conn.RemoteAddr().String(), "handshakes", handshakes)
				}
				return nil, errAbsent
			}
			c := &tls.Config{
				MinVersion:   p.o.MinVersion,
				NextProtos:   protocols,
				Certificates: []tls.Certificate{m.certificate},
				// A session that is resumed would keep an authority that is trusted no
				// more. Connections live long, so that resuming saves little.
				SessionTicketsDisabled: true,
			}
			if m.authorities != nil {
				c.ClientCAs, c.ClientAuth = m.authorities, tls.VerifyClientCertIfGiven
				if required() {
					c.ClientAuth = tls.RequireAndVerifyClientCert
				}
			}
			return c, nil
		},
	}
}
