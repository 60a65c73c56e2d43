package memcached

import (
	"context"
	"fmt"
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

// exchanges have those that are under way: each asks a server, and gets its answer. The zero
// value is ready for use.
type exchanges struct {
	panics  *crash.Log
	running sync.WaitGroup // exchanges, and goroutines that carry edits
}

// do makes an exchange with a server, for which there is a slot, and frees the slot. The
// error of one that panics says nothing of the server.
func (x *exchanges) do(on *server, exchange func() error) (err error) {
	defer func() { <-on.slots }()
	defer x.panics.Recover("an exchange with memcached", func(e error) { err = fmt.Errorf("%w: %w", store.ErrCounters, e) })
	return exchange()
}

// send makes one exchange with a server. It stops waiting when ctx ends. One that has no
// connection by then is not made. Nobody may read what exchange sets before it has returned.
func (x *exchanges) send(ctx context.Context, on *server, exchange func() error) error {
	answer := make(chan error, 1)
	x.running.Go(func() {
		select {
		case on.slots <- struct{}{}:
			answer <- x.do(on, exchange)
		case <-ctx.Done():
		}
	})
	select {
	case err := <-answer:
		return on.named(err)
	case <-ctx.Done():
		return on.named(ctx.Err())
	}
}
