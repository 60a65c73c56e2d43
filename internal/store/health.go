package store

import (
	"strconv"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// HealthSample returns the i-th of requests that find out whether a store decides. Each
// consumes, because a server that is full, or that has become a replica, can still be
// read. Their counters are unused again after a millisecond.
func HealthSample(i int) Request {
	limit := strategy.Limit{
		Strategy: strategy.FixedWindow,
		Rate:     rate.Rate{Count: rate.MaxCount, Period: time.Millisecond},
		Capacity: rate.MaxCount,
	}
	return Request{Namespace: "ratelimitd", Identifier: "health " + strconv.Itoa(i), Limits: []strategy.Limit{limit}, Cost: 1}
}
