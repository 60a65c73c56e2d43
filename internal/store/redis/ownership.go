package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

const (
	// sampleKeys is how many keys are looked for. If a proxy gives a server one key
	// in n of them, the others are all elsewhere with a chance of (1-1/n)^256: 2^-256
	// for two equal servers, one in 13 for a server with one key in a hundred.
	sampleKeys = 256
	// sampleLife is how long those of these keys live that the script does not find.
	sampleLife = 2 * time.Second
	// lookEvery is the shortest time between two looks, and lookAtLeastEvery the
	// longest until it is known that one server owns all keys.
	lookEvery        = time.Second
	lookAtLeastEvery = 5 * time.Minute
)

// sampleScript counts the keys that have the value, and deletes them.
const sampleScript = `local n = 0
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then n = n + redis.call('DEL', key) end
end
return n`

// An ownership is what is known of whether one server owns all keys. It holds for sure
// only if the server says in its HELLO that it stands alone, and one script finds there
// what commands with one key each have written. Each new connection, which may lead
// to another server, makes it look again.
type ownership struct {
	sharing Sharing
	// sample writes keys, one a command, and returns how many of them a script finds.
	sample func(ctx context.Context) (found int, err error)
	log    *slog.Logger
	every  time.Duration

	all atomic.Bool // whether one script may have all keys

	soon    chan struct{}   // has an element when there is a new connection
	ctx     context.Context // ends when the store is closed
	quit    context.CancelFunc
	looking sync.WaitGroup
	mu      sync.Mutex // protects the following
	said    string     // what the log says of it
	looks   bool       // whether a goroutine looks
	due     bool       // whether it is to look once more
}

func newOwnership(sharing Sharing, log *slog.Logger, sample func(ctx context.Context) (int, error)) *ownership {
	o := &ownership{sharing: sharing, sample: sample, log: log, every: lookEvery, soon: make(chan struct{}, 1)}
	o.all.Store(sharing == ShareAlways)
	o.ctx, o.quit = context.WithCancel(context.Background())
	return o
}

// met notes what a server has answered to the HELLO of a new connection: its mode, or
// an error. It returns errAgain if scripts under way may be wrong for this server.
func (o *ownership) met(mode string, refused error) error {
	if o.sharing != ShareAuto {
		return nil
	}
	what := ""
	switch {
	case mode == "standalone":
		o.look()
		return nil
	case refused != nil:
		what = fmt.Sprintf("a proxy, or a server that refuses HELLO: %v", quote.Error(refused))
	case mode == "cluster":
		what = "a node of a cluster, for which to set --redis-cluster"
	default:
		what = "a server of mode " + quote.Cut(mode)
	}
	if o.deny(what) {
		return errAgain
	}
	return nil
}

// refused notes that the server has refused a script because of whose keys it has.
func (o *ownership) refused(err error) {
	o.deny(fmt.Sprintf("a server that refuses scripts with the keys of several identifiers: %v", quote.Error(err)))
}

// deny notes that no server is known to own all keys, because of what there is. It
// reports whether one was.
func (o *ownership) deny(what string) bool {
	was := o.all.Swap(false)
	if o.sharing != ShareNever && o.news(what) {
		o.log.Warn("redis: no server is known to own all keys, so each identifier is decided by a script of its own, which is right but slower; if the server does own all keys, set --redis-shared-scripts=always", "found", what)
	}
	return was
}

// confirm notes that the server owns all keys.
func (o *ownership) confirm() {
	o.all.Store(true)
	if o.news("one server") {
		o.log.Info("redis: one server owns all keys, so requests of several identifiers share scripts")
	}
}

// news reports whether what is another finding than the last.
func (o *ownership) news(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.said
	o.said = what
	return was != what
}

// look has a goroutine find out whether the server owns all keys. It returns at once.
func (o *ownership) look() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.due = true
	if o.looks || o.ctx.Err() != nil {
		select {
		case o.soon <- struct{}{}:
		default: // it has been told already
		}
		return
	}
	o.looks = true
	o.looking.Go(o.run)
}

// run looks until it knows, and no connection is new since then. What it found may have
// been a flush of the server, so it looks again: first soon, and then less and less.
func (o *ownership) run() {
	rest := o.every
	for o.isDue() {
		if o.once() {
			rest = o.every
			o.wait(o.every, nil)
			continue
		}
		o.wait(o.every, nil)
		o.wait(rest, o.soon)
		rest = min(2*rest, lookAtLeastEvery)
		o.again()
	}
}

// once looks once, and reports whether the server was found to own all keys.
func (o *ownership) once() bool {
	found, err := o.sample(o.ctx)
	switch {
	case err != nil && (!isReply(err) || isUnwell(err)): // nobody knows
		return false
	case err != nil && isApart(err):
		o.refused(err)
		return false
	case err != nil:
		o.deny(fmt.Sprintf("nothing, because a look for keys is refused: %v", quote.Error(err)))
		return false
	case found != sampleKeys:
		o.deny(fmt.Sprintf("a proxy that spreads keys over several servers, or a server that evicts keys: a script has %d of %d keys", found, sampleKeys))
		return false
	}
	o.confirm()
	return true
}

// wait waits for d, or until it is told that there is something new, or the end.
func (o *ownership) wait(d time.Duration, soon <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-soon:
	case <-o.ctx.Done():
	}
}

// isDue reports whether there is to be a look. If not, nobody looks any more.
func (o *ownership) isDue() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.looks = o.due && o.ctx.Err() == nil
	o.due = false
	return o.looks
}

func (o *ownership) again() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.due = true
}

func (o *ownership) close() {
	o.quit()
	o.looking.Wait()
}

// sample writes sampleKeys keys, and returns how many of them a script finds. No counter
// has such a key: there, two digits of a hexadecimal number follow a percent sign.
func sample(ctx context.Context, client redis.UniversalClient, prefix string) (found int, err error) {
	value := rand.Text()
	keys := make([]string, sampleKeys)
	pipe := client.Pipeline()
	for i := range keys {
		keys[i] = prefix + "rl:{%sample:" + value + ":" + strconv.Itoa(i) + "}"
		pipe.Set(ctx, keys[i], value, sampleLife)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, err
	}
	return client.Eval(ctx, sampleScript, keys, value).Int()
}
