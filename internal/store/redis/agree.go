package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// Agree keeps the value in the key <prefix>rl:<name>, which is no counter's: those have braces.
func (s *Store) Agree(ctx context.Context, name string, value []byte) ([]byte, error) {
	ctx, cancel := s.own(ctx)
	defer cancel()
	key := s.prefix + "rl:" + name
	var set *redis.StatusCmd
	var get *redis.StringCmd
	_, _ = s.client.Pipelined(ctx, func(p redis.Pipeliner) error { // each says itself how it went
		set = p.SetArgs(ctx, key, value, redis.SetArgs{Mode: "NX"}) // SETNX would need another permission
		get = p.Get(ctx, key)
		return nil
	})
	err := set.Err()
	if errors.Is(err, redis.Nil) { // there is one
		err = nil
	}
	agreed, failed := get.Bytes()
	if err = cmp.Or(err, failed); err != nil {
		return nil, fmt.Errorf("redis: %s: %w", key, quote.Error(err))
	}
	return agreed, nil
}
