package memcached

import (
	"fmt"
	"net"
	"strconv"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

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
