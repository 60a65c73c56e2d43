// Package config reads the configuration of the daemon into one typed Config,
// and checks it. "ratelimitd serve" and "ratelimitd validate" both call it, so
// that what validate accepts also starts.
//
// A setting has the value of the first source that sets it: the command line,
// the environment (RATELIMITD_...), the file of --config, the variables of
// Envoy's rate limit service. Limits may also come from an xDS server, while the
// daemon runs: see Receive. Without any it has its default, which Default
// alone knows.
package config

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/auth/keypair"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/store/admission"
	"github.com/ratelimitd/ratelimitd/internal/store/denycache"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// EnvPrefix is what the environment variables of the flags begin with.
const EnvPrefix = "RATELIMITD"

// A Config is all settings of the daemon. Nothing changes it once Read has
// returned it, so it is safe for concurrent use.
type Config struct {
	GRPCAddr, HTTPAddr string // host:port
	AdminAddr          string // host:port; or AdminOff
	RESPAddr           string // host:port of the protocol of Redis; "": there is none
	MetricsAddr        string // host:port that has metrics alone; "": there is none
	MetricsPath        string // on that port

	File         string // of --config; "": none
	PoliciesOnly bool   // callers may not send limits of their own

	Envoy Envoy
	XDS   XDS
	Store Store
	Trust Trust
	Log   Log

	ShutdownDelay time.Duration // how long to answer on while reported as not serving
	DrainTimeout  time.Duration // bounds what comes after it

	Bounds Bounds

	MaxConnections           int // on all ports together; 0: what netlimit chooses
	MaxConnectionsPerAddress int // 0: half of all

	Tracing bool
	// TestClock says that the clock of the store stands still until it is turned.
	TestClock bool

	// What the stores are made of. MemoryOptions, RedisOptions and
	// MemcachedOptions return them with what is set in Store.
	memory    memory.Options
	snapshots memory.Snapshots
	redis     redis.Options
	memcached memcached.Options

	flags   *flags.Set // whose values are the fields above
	sources sources
}

// sources are what the settings come from, to read them again.
type sources struct {
	line    flags.Source                // the command line
	lookup  func(string) (string, bool) // the environment
	isEnvoy bool                        // whether the variables of Envoy's service count
	ignored []string                    // those that have no effect, with their values
}

// AdminOff in place of an address says that there is no admin port.
const AdminOff = "off"

// A StoreKind is where the counters are.
type StoreKind string

// The kinds of stores.
const (
	Memory    StoreKind = "memory"
	Redis     StoreKind = "redis"
	Memcached StoreKind = "memcached"
)

// Store says where the counters are and what all stores have in common.
type Store struct {
	Kind         StoreKind
	OnError      policy.OnError // of namespaces that configure none
	Timeout      time.Duration  // the longest that a decision waits for the store
	DenyCacheTTL time.Duration  // 0: no deny cache
	MaxLogCount  int64          // caps the count of a sliding_window_log
	// ReservationTTL is how long a reservation can be settled.
	ReservationTTL time.Duration
	MaxInFlight    int  // how many counters are at a store outside the process at a time
	Await          bool // not ready until the store has decided
}

// Envoy says how Envoy's rate limit service is answered.
type Envoy struct {
	ConfigDir       string // "": nothing is configured for it
	MergeDomains    bool
	RequireDomains  bool // not ready without any
	ShadowMode      bool
	QuotaMode       bool
	AllOrNone       bool
	Overdraw        envoy.Overdraw // of limits and domains that have none
	ResponseHeaders bool
	LimitHeader     string
	RemainingHeader string
	ResetHeader     string
	DynamicMetadata bool
	Metrics         bool    // under the names of envoyproxy/ratelimit too
	NearLimitRatio  float64 // how much of a limit is near it, in those
}

// XDS says from which xDS server the limits of Envoy's format come.
type XDS struct {
	Server       string   // host:port; "": from none
	NodeID       string   // what the server knows this daemon by
	NodeMetadata []string // KEY=VALUE
	Headers      []string // NAME: VALUE, with each stream

	TLS               bool
	CAFile            string // "": the system's
	CertFile, KeyFile string // "": no certificate is shown
	ServerName        string // in the server's certificate; "": the host of Server

	MaxMessageBytes     int           // of a message, and so of all limits
	Backoff, MaxBackoff time.Duration // before connecting again
	CacheFile           string        // "": nothing is kept over a restart
	StartUnconfigured   bool          // serve before the first configuration has come
}

// IsOn reports whether there is a server.
func (x *XDS) IsOn() bool { return x.Server != "" }

// Trust says how the daemon and its callers know one another.
type Trust struct {
	CertFile, KeyFile string // "": no TLS
	ClientCAFile      string // "": clients have no certificates
	ClientSANs        []string
	Ports             []string // that speak TLS, of TLSPorts
	MinVersion        TLSVersion

	AuthFile   string // "": callers are not known by name
	AllowReset bool
	AdminHosts []string
}

// The ports that may speak TLS.
const (
	PortGRPC  = "grpc"
	PortHTTP  = "http"
	PortAdmin = "admin"
	PortRESP  = "resp"
)

// TLSPorts lists them.
var TLSPorts = []string{PortGRPC, PortHTTP, PortAdmin, PortRESP}

// A TLSVersion is a version of TLS.
type TLSVersion string

// The versions that the daemon may be told to accept from.
const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

// TLSFiles returns the files of TLS, and the least version, as package tls has it.
func (t *Trust) TLSFiles() (keypair.Files, uint16) {
	version := uint16(tls.VersionTLS13)
	if t.MinVersion == TLS12 {
		version = tls.VersionTLS12
	}
	return keypair.Files{Cert: t.CertFile, Key: t.KeyFile, ClientCA: t.ClientCAFile}, version
}

// Bounds bound what callers may have of the daemon, beside connections.
type Bounds struct {
	MessageBytes int // of a message, and of a body over HTTP
	HeaderBytes  int // of the headers of a gRPC call
	Streams      int // calls under way on one gRPC connection
	Calls        int // gRPC calls that are no streams, and turns of the protocol of Redis, under way in all
	// BytesInFlight is what all calls and requests may hold together, on all ports.
	BytesInFlight int

	MessageTimeout time.Duration // until a call's message, or a command, has arrived

	ConnectionAge, ConnectionGrace time.Duration // of a gRPC connection; Grace is for the calls on it
	ConnectionIdle                 time.Duration // without a call, or a command of the protocol of Redis
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// Default returns the Config of a daemon that nobody configures.
func Default() *Config {
	return &Config{
		GRPCAddr:  ":8081",
		HTTPAddr:  ":8080",
		AdminAddr: "127.0.0.1:6070",

		MetricsPath: "/metrics",
		Envoy: Envoy{
			LimitHeader:     "RateLimit-Limit",
			RemainingHeader: "RateLimit-Remaining",
			ResetHeader:     "RateLimit-Reset",
			Overdraw:        envoy.OverdrawOnce,
			NearLimitRatio:  0.8,
		},
		XDS: defaultXDS,
		Store: Store{
			Kind:           Memory,
			OnError:        policy.FailAllow,
			Timeout:        redis.DefaultTimeout,
			DenyCacheTTL:   denycache.DefaultTTL,
			MaxLogCount:    strategy.DefaultMaxLogCount,
			ReservationTTL: decide.DefaultReservationLife,
			MaxInFlight:    admission.DefaultCapacity,
		},
		Bounds:       DefaultBounds(),
		Trust:        Trust{Ports: slices.Clone(TLSPorts), MinVersion: TLS13},
		Log:          Log{Level: "info", Format: "text"},
		DrainTimeout: 10 * time.Second, // well under the 30 s after which Kubernetes kills
		memory:       memory.Options{MaxKeys: memory.DefaultMaxKeys},
		snapshots:    memory.Snapshots{Interval: memory.DefaultSnapshotInterval},
		redis:        redis.Options{URLs: []string{redis.DefaultURL}, SharedScripts: redis.ShareAuto, DialTimeout: redis.DefaultDialTimeout},
		memcached:    memcached.Options{Addrs: []string{memcached.DefaultAddr}, MaxConns: memcached.DefaultMaxConns},
	}
}

// DefaultBounds returns the Bounds of a daemon that nobody configures.
func DefaultBounds() Bounds {
	return Bounds{
		// The largest valid batch, 1,000 requests of 16 limits with the longest names, has
		// 4.5 MB.
		MessageBytes: 8 << 20,
		// Enough for tracing, and for tokens of any usual size.
		HeaderBytes: 32 << 10,
		// A call without a message holds about 13 KB. A client with more calls waits, or
		// connects again.
		Streams: 1000,
		// Far more than a daemon answers in the time that a caller waits.
		Calls: 10_000,
		// An eighth of the memory of deploy/kubernetes: under attack the process took up to
		// 341 MB with it, as loadtest/results/attack.md has it. It is 4,000 calls that wait.
		BytesInFlight:  64 << 20,
		MessageTimeout: 10 * time.Second,
		// So that clients find new replicas.
		ConnectionAge:   10 * time.Minute,
		ConnectionGrace: time.Minute,
		ConnectionIdle:  5 * time.Minute,
	}
}

// defaultXDS has the defaults of the flags. Those that are not of time are as in
// envoyproxy/ratelimit and in gRPC.
var defaultXDS = XDS{NodeID: "default", MaxMessageBytes: 4 << 20, Backoff: time.Second, MaxBackoff: time.Minute}

// MemoryOptions returns how to make the memory store.
func (c *Config) MemoryOptions() memory.Options {
	o := c.memory
	o.MaxLogCount = c.Store.MaxLogCount
	return o
}

// MemorySnapshots returns where the memory store keeps its counters, if it does.
func (c *Config) MemorySnapshots() (o memory.Snapshots, ok bool) {
	return c.snapshots, c.snapshots.File != ""
}

// RedisOptions returns how to make the Redis store.
func (c *Config) RedisOptions() redis.Options {
	o := c.redis
	o.Timeout = c.Store.Timeout
	return o
}

// MemcachedOptions returns how to make the memcached store.
func (c *Config) MemcachedOptions() memcached.Options {
	o := c.memcached
	o.Timeout = c.Store.Timeout
	return o
}

// Shown returns every setting by the name of its flag, as the admin port shows
// them: as JSON, without passwords.
func (c *Config) Shown() map[string]any { return c.flags.Shown() }

// New returns a logger of l's format. It logs what is of l's level or above,
// which it sets in level.
func (l Log) New(to io.Writer, level *slog.LevelVar) *slog.Logger {
	_ = level.UnmarshalText([]byte(l.Level)) // the flag allows levels alone
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(to, o))
	}
	return slog.New(slog.NewTextHandler(to, o))
}

// nameOf returns what messages call a flag: --config, or what else set it.
func (c *Config) nameOf(flag string) string {
	setting, ok := c.flags.Setting(flag)
	if !ok {
		return "--" + flag
	}
	return setting.Name
}

// WatchedDirs lists the directories whose changes may change the policies.
// There are none if no file configures anything.
func (c *Config) WatchedDirs() []string {
	var dirs []string
	if c.File != "" {
		dirs = append(dirs, filepath.Dir(c.File))
	}
	if c.Trust.AuthFile != "" {
		dirs = append(dirs, filepath.Dir(c.Trust.AuthFile))
	}
	if dir := c.Envoy.ConfigDir; dir != "" {
		dirs = append(dirs, dir, filepath.Dir(dir))
		if root, _ := c.sources.lookup("RUNTIME_ROOT"); root != "" {
			dirs = append(dirs, filepath.Dir(filepath.Clean(root))) // where a link to another version is put
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// FlagError says what is wrong with what a flag names, if err is not nil.
func (c *Config) FlagError(flag string, err error) error {
	if err == nil {
		return nil
	}
	return c.fileError(flag, err)
}

// fileError says that the file or directory of a flag cannot be read.
func (c *Config) fileError(flag string, err error) error {
	return fmt.Errorf("%s: %w", c.nameOf(flag), err)
}
