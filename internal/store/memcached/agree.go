package memcached

import (
	"context"
	"errors"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// Agree keeps the value in the item <prefix>rl:<name>, which is no identifier's: those have two
// colons.
func (s *Store) Agree(ctx context.Context, name string, value []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	key := s.prefix + "rl:" + name
	on := pick(s.servers, key)
	err := on.send(newWrite(write{key: key, value: value, add: true})).await(ctx, on)
	if err == nil || errors.Is(err, errConflict) {
		read := on.send(newRead([]string{key}))
		if err = read.await(ctx, on); err == nil && read.found[0].there {
			return read.found[0].value, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("%w: the server has forgotten it", store.ErrCounters)
	}
	return nil, fmt.Errorf("%s: %w", key, on.named(err))
}
