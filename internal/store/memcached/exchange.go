package memcached

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

// An exchange asks a server, and gets its answer. Nobody may read what do sets before do has
// returned.
type exchange struct {
	server *server
	do     func() error
}

// errSilent is the error of an exchange that is not over.
var errSilent = errors.New("no answer yet")

// exchanges have those that are under way. The zero value is ready for use.
type exchanges struct {
	panics  *crash.Log
	running sync.WaitGroup // exchanges, and goroutines that carry edits
}

// do makes an exchange, for which there is a slot, and frees the slot. The error of one
// that panics says nothing of the server.
func (x *exchanges) do(one exchange) (err error) {
	defer func() { <-one.server.slots }()
	defer x.panics.Recover("an exchange with memcached", func(e error) { err = fmt.Errorf("%w: %w", store.ErrCounters, e) })
	return one.do()
}

// send makes all exchanges at the same time and returns their errors. It stops waiting when
// ctx ends. Those that have no connection by then are not made.
func (x *exchanges) send(ctx context.Context, all []exchange) []error {
	type answer struct {
		of  int
		err error
	}
	answers := make(chan answer, len(all))
	for i, one := range all {
		x.running.Go(func() {
			select {
			case one.server.slots <- struct{}{}:
				answers <- answer{i, x.do(one)}
			case <-ctx.Done():
			}
		})
	}
	errs := make([]error, len(all))
	for i := range errs {
		errs[i] = errSilent
	}
	for silent := len(all); silent > 0; silent-- {
		select {
		case a := <-answers:
			errs[a.of] = a.err
			continue
		case <-ctx.Done():
		}
		for i := range errs {
			if errors.Is(errs[i], errSilent) {
				errs[i] = ctx.Err()
			}
		}
		break
	}
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("memcached %s: %w", all[i].server.addr, quote.Error(err))
		}
	}
	return errs
}
