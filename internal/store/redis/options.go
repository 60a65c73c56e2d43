package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/textfile"
)

const (
	// DefaultURL is the address of a Redis with the default configuration.
	DefaultURL = "redis://127.0.0.1:6379"
	// DefaultTimeout is many times as long as a round trip within a data centre,
	// and short enough for a caller to wait.
	DefaultTimeout = 50 * time.Millisecond
	// DefaultDialTimeout leaves time for a TLS handshake across a data centre.
	DefaultDialTimeout = time.Second
	// DefaultPoolSize is twice what the senders of a lane use. The rest is for
	// resets, health checks, and connections that are being replaced.
	DefaultPoolSize = 2 * maxSenders
)

// maxSenders is how many pipelines of a lane are under way at most. With more, the pipelines
// get shorter. With fewer, one slow pipeline holds up the rest.
const maxSenders = 4

// Sharing says whether one script may decide for several identifiers.
type Sharing string

// The ways of sharing. A script for several identifiers is right only if the server that
// runs it owns the keys of all of them. A proxy that spreads keys over several servers
// sends such a script to the server of its first key.
const (
	ShareAuto   Sharing = "auto"   // if the server is found to own all keys
	ShareAlways Sharing = "always" // unless the server refuses it
	ShareNever  Sharing = "never"
)

// Sharings lists them.
var Sharings = []Sharing{ShareAuto, ShareAlways, ShareNever}

// Options say how to make a Store. The zero Options are the defaults.
type Options struct {
	// URLs are the servers: redis://[user[:password]@]host[:port][/database], or
	// rediss:// for TLS. Several URLs are nodes of one cluster, which names its
	// other nodes. If MasterName is set, the URLs are sentinels. The user, password
	// and database of the first URL are for all servers, and all URLs must agree on
	// TLS. An empty list means DefaultURL.
	URLs []string
	// Cluster says that the server is a node of a cluster even if there is only one
	// URL.
	Cluster bool
	// SharedScripts says whether one script may decide for several identifiers. ""
	// means ShareAuto. A cluster never shares scripts.
	SharedScripts Sharing

	// MasterName says that the URLs are sentinels, and names the group of servers
	// whose master to use. The database in a URL is for these servers. So are its user and
	// password, unless the servers' password is given in another way: then they are for
	// the sentinels. TLS is for the servers and the sentinels.
	MasterName                     string
	SentinelUser, SentinelPassword string

	// User, Password and Database replace those of the URLs, unless they are empty
	// or 0. So a password need not be on a command line.
	User, Password string
	Database       int
	// PasswordFile has the password, in place of Password and that of a URL. AuthFile has
	// user:password, or the password alone, in place of User too. Both may change: see
	// secret.
	PasswordFile, AuthFile string

	// These are for TLS, with rediss:// URLs. CAFile has the certificates to trust,
	// in PEM, instead of the system's. CertFile and KeyFile have this client's
	// certificate and key. ServerName is the name in the servers' certificates, if
	// that is not the host of the URL.
	CAFile, CertFile, KeyFile, ServerName string

	// KeyPrefix comes before all keys: see store.CheckKeyPrefix.
	KeyPrefix string

	// PoolSize bounds the connections to each server; 0 means DefaultPoolSize.
	// MinIdle is how many idle connections to keep ready.
	PoolSize, MinIdle int
	// DialTimeout bounds each attempt to connect. 0 means DefaultDialTimeout.
	DialTimeout time.Duration
	// Timeout bounds each call. 0 means DefaultTimeout.
	Timeout time.Duration
	// Panics notes the panics of goroutines, which end their calls alone. It may be
	// nil.
	Panics *crash.Log
	// Logger logs what an operator should know of the servers. nil: nobody reads it.
	Logger *slog.Logger
}

// withDefaults returns o with the defaults filled in, or an error that says which
// option is wrong.
func (o Options) withDefaults() (Options, error) {
	if len(o.URLs) == 0 {
		o.URLs = []string{DefaultURL}
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = DefaultDialTimeout
	}
	if o.PoolSize == 0 {
		o.PoolSize = DefaultPoolSize
	}
	if o.SharedScripts == "" {
		o.SharedScripts = ShareAuto
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	err := store.CheckKeyPrefix(o.KeyPrefix)
	switch {
	case err != nil:
	case o.Timeout < 0:
		err = fmt.Errorf("timeout %v: must be above 0, such as %v", o.Timeout, DefaultTimeout)
	case o.DialTimeout < 0:
		err = fmt.Errorf("dial timeout %v: must be above 0, such as %v", o.DialTimeout, DefaultDialTimeout)
	case o.PoolSize < 0:
		err = fmt.Errorf("pool size %d: must be above 0, such as %d", o.PoolSize, DefaultPoolSize)
	case o.MinIdle < 0 || o.MinIdle > o.PoolSize:
		err = fmt.Errorf("min idle %d: must be from 0 to the pool size, %d", o.MinIdle, o.PoolSize)
	case o.Cluster && o.MasterName != "":
		err = fmt.Errorf("sentinel master name %q: a cluster has no sentinels; use either a cluster or sentinels", o.MasterName)
	case o.MasterName == "" && o.SentinelUser != "":
		err = fmt.Errorf("sentinel user %q: give the sentinel master name too, such as \"mymaster\"", o.SentinelUser)
	case o.MasterName == "" && o.SentinelPassword != "":
		err = fmt.Errorf("sentinel password: give the sentinel master name too, such as \"mymaster\"")
	}
	return o, err
}

// universal returns o as options of the client, and its dialer. The defaults must be
// filled in.
func (o Options) universal() (*redis.UniversalOptions, *dialer, error) {
	server, addrs, err := o.servers()
	if err != nil {
		return nil, nil, err
	}
	secret, err := o.identify(&server)
	if err != nil {
		return nil, nil, err
	}
	if o.Database != 0 {
		server.database = o.Database
	}
	cluster := o.MasterName == "" && (o.Cluster || len(addrs) > 1)
	switch {
	case server.user != "" && server.password == "":
		return nil, nil, fmt.Errorf("user %q: give a password too", server.user)
	case server.database < 0:
		return nil, nil, fmt.Errorf("database %d: must be a number from 0", server.database)
	case cluster && o.SharedScripts == ShareAlways:
		return nil, nil, fmt.Errorf("shared scripts %q: a script in a cluster has the keys of one slot; use %q", o.SharedScripts, ShareAuto)
	case cluster && server.database != 0:
		return nil, nil, fmt.Errorf("database %d: a cluster has only database 0", server.database)
	}
	secure, err := o.tlsConfig(server.tls)
	if err != nil {
		return nil, nil, err
	}
	// Some requests have no caller with a deadline: the client asks on its own for
	// the nodes of a cluster, for example.
	own := max(o.Timeout, o.DialTimeout)
	host, _, _ := net.SplitHostPort(addrs[0])
	dialer := &dialer{timeout: o.DialTimeout, secure: secure, host: host}
	var provide func(context.Context) (user, password string, err error)
	if secret != nil {
		provide = secret.provide
		if o.MasterName == "" { // sentinels, which have the same dialer, are not told
			dialer.secret = secret
		}
	}
	return &redis.UniversalOptions{
		CredentialsProviderContext: provide,

		Addrs:            addrs,
		IsClusterMode:    cluster,
		MasterName:       o.MasterName,
		SentinelUsername: server.sentinel.user,
		SentinelPassword: server.sentinel.password,
		Username:         server.user,
		Password:         server.password,
		DB:               server.database,
		TLSConfig:        secure,
		Dialer:           dialer.dial,
		ClientName:       "ratelimitd",
		DisableIdentity:  true, // CLIENT SETINFO, which some servers refuse and nobody needs
		PoolSize:         o.PoolSize,
		MinIdleConns:     o.MinIdle,
		PipelinePoolSize: -1, // one pool, so that its size bounds all connections
		DialTimeout:      o.DialTimeout,
		ReadTimeout:      own,
		WriteTimeout:     own,
		// A decision that is sent twice may consume twice, so the client must not
		// retry: see once. It may follow a redirect or try another connection, up to
		// three times. The pauses in between are short against a caller's deadline.
		MaxRetries:            -1,
		MaxRedirects:          3,
		MinRetryBackoff:       time.Millisecond,
		MaxRetryBackoff:       4 * time.Millisecond,
		DialerRetries:         1,
		ContextTimeoutEnabled: true,
		// Maintenance notifications would extend timeouts while a server is in
		// maintenance.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}, dialer, nil
}

// identify sets who the servers and sentinels are told this is: for the servers, by what
// it returns, if that is in a file.
func (o Options) identify(server *server) (*secret, error) {
	given := o.Password != "" || o.PasswordFile != "" || o.AuthFile != ""
	server.sentinel = credentials{o.SentinelUser, o.SentinelPassword}
	if o.MasterName != "" && given && server.password != "" {
		if o.SentinelPassword != "" {
			return nil, errors.New("sentinel password: the URLs of the sentinels have a password too; give one of the two")
		}
		server.sentinel, server.credentials = server.credentials, credentials{}
	}
	if o.User != "" {
		server.user = o.User
	}
	if o.Password != "" {
		server.password = o.Password
	}
	switch {
	case o.PasswordFile == "" && o.AuthFile == "":
		return nil, nil
	case o.PasswordFile != "" && o.AuthFile != "":
		return nil, fmt.Errorf("auth file %q: there is a password file too; give one of the two", o.AuthFile)
	case o.PasswordFile != "" && server.password != "":
		return nil, fmt.Errorf("password file %q: there is a password too; give one of the two", o.PasswordFile)
	case o.AuthFile != "" && server.credentials != credentials{}:
		return nil, fmt.Errorf("auth file %q: there is a user or a password too; write both to the file alone", o.AuthFile)
	}
	secret, err := newSecret(cmp.Or(o.PasswordFile, o.AuthFile), server.user, o.AuthFile != "", o.Logger)
	if err != nil {
		return nil, err
	}
	server.credentials = secret.state.Load().credentials
	return secret, nil
}

// A server has what URLs say about the servers, besides their addresses.
type server struct {
	credentials
	sentinel credentials // for the sentinels, which identify sets
	tls      bool
	database int
}

// servers returns the addresses in the URLs, and what is the same for all.
func (o Options) servers() (server, []string, error) {
	port, example := "6379", DefaultURL
	if o.MasterName != "" {
		port, example = "26379", "redis://127.0.0.1:26379"
	}
	var first server
	var addrs []string
	for i, text := range o.URLs {
		s, addr, problem := parseURL(text, port)
		switch {
		case problem != "":
			return server{}, nil, fmt.Errorf("URL %q: %s; write one such as %q", redacted(text), problem, example)
		case i == 0:
			first = s
		case s.tls != first.tls:
			return server{}, nil, fmt.Errorf("URL %q: some URLs begin with redis:// and some with rediss://; use one of them for all", redacted(text))
		case s != (server{tls: s.tls}) && s != first:
			return server{}, nil, fmt.Errorf("URL %q: has another user, password or database than the first URL; write them only in the first", redacted(text))
		}
		addrs = append(addrs, addr)
	}
	return first, addrs, nil
}

// parseURL returns what a URL says, or what is wrong with it. The problem quotes no
// part of the URL, because any part could belong to a password.
func parseURL(text, port string) (s server, addr, problem string) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return s, "", "it is not a URL (in a password, write %40 for @, %2F for /, %3A for :, %25 for %)"
	case u.Scheme != "redis" && u.Scheme != "rediss":
		return s, "", "it begins with neither redis:// nor rediss://"
	case u.Opaque != "" || u.Hostname() == "":
		return s, "", "it has no host"
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return s, "", "it must not have a ? or #; options have their own flags"
	}
	if database := strings.Trim(u.Path, "/"); database != "" {
		if s.database, err = strconv.Atoi(database); err != nil || s.database < 0 {
			return s, "", "the database is not a number from 0"
		}
	}
	if u.Port() != "" {
		port = u.Port()
	}
	s.tls = u.Scheme == "rediss"
	s.user = u.User.Username()
	s.password, _ = u.User.Password()
	return s, net.JoinHostPort(u.Hostname(), port), ""
}

// redacted returns a URL without the part that may have a user and a password.
func redacted(text string) string {
	i := strings.LastIndexByte(text, '@')
	if i < 0 {
		return text
	}
	scheme, _, found := strings.Cut(text[:i], "://")
	if !found {
		return "..." + text[i:]
	}
	return scheme + "://..." + text[i:]
}

// tlsConfig returns the configuration of TLS, or nil if the URLs do not ask for TLS.
func (o Options) tlsConfig(wanted bool) (*tls.Config, error) {
	if !wanted {
		for _, option := range [][2]string{
			{"TLS CA file", o.CAFile}, {"TLS certificate file", o.CertFile}, {"TLS key file", o.KeyFile}, {"TLS server name", o.ServerName},
		} {
			if option[1] != "" {
				return nil, fmt.Errorf("%s %q: this option is for TLS, so the URLs must be such as %q", option[0], option[1], "rediss://10.0.0.5:6379")
			}
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if o.CAFile != "" {
		pem, err := textfile.Read(o.CAFile, textfile.MaxPEM)
		if err != nil {
			return nil, fmt.Errorf("TLS CA file %q: %w", o.CAFile, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("TLS CA file %q: has no PEM certificate, which begins with -----BEGIN CERTIFICATE-----", o.CAFile)
		}
	}
	if o.CertFile != "" || o.KeyFile != "" {
		if o.CertFile == "" || o.KeyFile == "" {
			return nil, fmt.Errorf("TLS certificate file %q and key file %q: give both or neither", o.CertFile, o.KeyFile)
		}
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("TLS certificate file %q and key file %q: %w", o.CertFile, o.KeyFile, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
