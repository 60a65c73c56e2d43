package memcached

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bradfitz/gomemcache/memcache"
)

// Agree keeps the value in the item <prefix>rl:<name>, which is no identifier's: those have two
// colons.
func (s *Store) Agree(ctx context.Context, name string, value []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	key := s.prefix + "rl:" + name
	server := pick(s.servers, key)
	agreed := make(chan []byte, 1) // an exchange that nobody waits for any more may still set it
	err := s.send(ctx, server, func() error {
		err := server.client.Add(&memcache.Item{Key: key, Value: slices.Clone(value)})
		if err != nil && !errors.Is(err, memcache.ErrNotStored) {
			return err
		}
		item, err := server.client.Get(key)
		if err == nil {
			agreed <- item.Value
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("memcached %s: %s: %w", server.addr, key, err)
	}
	return <-agreed, nil
}
