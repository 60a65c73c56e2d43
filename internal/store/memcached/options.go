package memcached

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// DefaultAddr is the address of a memcached with the default configuration.
	DefaultAddr = "127.0.0.1:11211"
	// DefaultTimeout is many times as long as a round trip within a data centre,
	// and short enough for a caller to wait.
	DefaultTimeout = 50 * time.Millisecond
	// DefaultMaxConns is more than are busy while a server answers within a few
	// milliseconds: see joinTime.
	DefaultMaxConns = 8
	// DefaultMaxAttempts is more attempts than there is time for within
	// DefaultTimeout.
	DefaultMaxAttempts = 16
)

// Options say how to make a Store. The zero Options are the defaults.
type Options struct {
	// Addrs are the servers, as host:port. Several servers share the identifiers by
	// consistent hashing of the addresses as they are written here. So all daemons
	// should have the same addresses, in any order. An empty list means DefaultAddr.
	Addrs []string
	// KeyPrefix comes before all keys: see store.CheckKeyPrefix.
	KeyPrefix string
	// Timeout bounds each decision. 0 means DefaultTimeout.
	Timeout time.Duration
	// MaxConns bounds the connections to each server, which stay open, and so the
	// exchanges at a time. A caller that finds all of them busy waits, and goes together
	// with all others that do. 0 means DefaultMaxConns.
	MaxConns int
	// MaxAttempts is how often a write that meets conflicts is tried, if the timeout
	// allows it. 0 means DefaultMaxAttempts.
	MaxAttempts int
	// Panics notes the panics of goroutines, which fail their requests alone. It may be
	// nil.
	Panics *crash.Log
	// Logger logs what an operator should know of the items. nil: nobody reads it.
	Logger *slog.Logger
	// Now is the clock. nil means the wall clock.
	Now func() strategy.Instant
}

// Check returns which option is wrong, if New would refuse one.
func (o Options) Check() error {
	if o.Timeout < 0 || o.MaxConns < 0 || o.MaxAttempts < 0 {
		return fmt.Errorf("timeout %v, at most %d connections and %d attempts: none may be below 0, which stands for the default", o.Timeout, o.MaxConns, o.MaxAttempts)
	}
	if err := store.CheckKeyPrefix(o.KeyPrefix); err != nil {
		return err
	}
	for _, addr := range o.Addrs {
		host, port, err := net.SplitHostPort(addr)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || host == "" {
			return fmt.Errorf("address %s: write it as host:port, such as %q", quote.Cut(addr), DefaultAddr)
		}
	}
	return nil
}

// withDefaults returns o with the defaults in place of what is left out.
func (o Options) withDefaults() Options {
	if len(o.Addrs) == 0 {
		o.Addrs = []string{DefaultAddr}
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxConns == 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = DefaultMaxAttempts
	}
	if o.Now == nil {
		o.Now = func() strategy.Instant { return strategy.InstantOf(time.Now()) }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
