package redis

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"time"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testClock has the script read its time from a key, and keeps counters
// however little of that time passes.
const testClock = `local now, slack = tonumber(redis.call('GET', 'test:now')), 3600000
`

func TestConformance(t *testing.T) {
	server := redistest.Start(t)
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		client := server.Client(t)
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		s := newStore(goredis.NewUniversalClient(&goredis.UniversalOptions{Addrs: []string{server.Addr}, MaxRetries: -1}), Options{Timeout: 10 * time.Second}, testClock)
		t.Cleanup(func() { _ = s.Close() })
		return storetest.Subject{Store: s, Set: func(now strategy.Instant) {
			if err := client.Set(t.Context(), "test:now", int64(now), 0).Err(); err != nil {
				t.Fatal(err)
			}
		}}
	})
}
