package redis

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// Agree keeps the value in the key <prefix>rl:<name>, which is no counter's: those have braces.
func (s *Store) Agree(ctx context.Context, name string, value []byte) ([]byte, error) {
	ctx, cancel := s.own(ctx)
	defer cancel()
	key := s.prefix + "rl:" + name
	var get *redis.StringCmd
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.SetNX(ctx, key, value, 0)
		get = p.Get(ctx, key)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("redis: %s: %w", key, quote.Error(err))
	}
	return get.Bytes()
}
