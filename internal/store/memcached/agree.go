package memcached

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// Agree keeps the value in the item <prefix>rl:<name>, which is no identifier's: those have two
// colons.
func (s *Store) Agree(ctx context.Context, name string, value []byte) ([]byte, error) {
	by := caller{ctx, time.Now().Add(s.timeout)}
	key := s.prefix + "rl:" + name
	on := pick(s.servers, key)
	err := on.await(by, on.send(newWrite(write{key: key, value: value, add: true})))
	if err == nil || errors.Is(err, errConflict) {
		read := on.send(newRead(key))
		if err = on.await(by, read); err == nil && read.found[0].there {
			return read.found[0].value, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("%w: the server has forgotten it", store.ErrCounters)
	}
	return nil, fmt.Errorf("%s: %w", key, on.named(err))
}
