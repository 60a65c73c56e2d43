package config

import (
	"os"
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/textfile"
)

// trust checks what says who may ask. Whether the files of TLS can be used is not
// among it: they may come later.
func (k *check) trust() {
	t := &k.c.Trust
	both := func(flag, value, other, otherValue string) {
		if value != "" && otherValue == "" {
			k.problem(flag, " %s: give --%s too", flags.Quote(value), other)
		}
	}
	both("tls-cert", t.CertFile, "tls-key", t.KeyFile)
	both("tls-key", t.KeyFile, "tls-cert", t.CertFile)
	both("tls-client-ca", t.ClientCAFile, "tls-cert", t.CertFile)
	for _, file := range []struct{ flag, name string }{
		{"tls-cert", t.CertFile}, {"tls-key", t.KeyFile}, {"tls-client-ca", t.ClientCAFile},
	} {
		if info, err := os.Stat(file.name); file.name != "" && err == nil && info.IsDir() {
			k.problem(file.flag, " %s: is a directory; write a file, such as /etc/ratelimitd/tls.crt", flags.Quote(file.name))
		}
	}
	for _, port := range t.Ports {
		if !slices.Contains(TLSPorts, port) {
			k.problem("tls-ports", " %s: use grpc, http, admin or resp", flags.Quote(port))
		}
	}
	for _, host := range t.AdminHosts {
		if host == "" || !isHost(host) {
			k.problem("admin-host", " %s: is neither an IP address nor a name; write one such as limits.example.org, without a port", flags.Quote(host))
		}
	}
	switch {
	case len(t.ClientSANs) == 0:
	case t.ClientCAFile == "":
		k.problem("tls-client-san", " %s: give --tls-client-ca too", flags.Quote(t.ClientSANs[0]))
	case t.AuthFile != "":
		k.problem("tls-client-san", " %s: --auth-file is given; write the name there, under certificates", flags.Quote(t.ClientSANs[0]))
	default:
		if _, err := auth.Certified(t.ClientSANs); err != nil {
			k.problem("tls-client-san", ": %v", err)
		}
	}
}

// readClients reads who may ask into p: the clients of --auth-file, or, with a client
// CA alone, each one with a certificate. It returns the text of the file.
func (c *Config) readClients(p *Policies) ([]byte, error) {
	t := &c.Trust
	if t.AuthFile == "" {
		if t.ClientCAFile != "" {
			p.Clients, _ = auth.Certified(t.ClientSANs) // check says what is wrong with them
		}
		return nil, nil
	}
	data, err := textfile.Read(t.AuthFile, maxFileBytes)
	if err != nil {
		return nil, c.fileError("auth-file", err)
	}
	if p.Clients, err = auth.Parse(t.AuthFile, data); err != nil {
		return data, err
	}
	if p.Clients.HasCertificates() && t.ClientCAFile == "" {
		p.Warnings = append(p.Warnings, t.AuthFile+" has certificates of clients, and without --tls-client-ca nobody is asked for one")
	}
	if p.Clients.Clients() == 0 {
		p.Warnings = append(p.Warnings, t.AuthFile+" has no clients, so nobody may ask anything")
	}
	return data, nil
}
