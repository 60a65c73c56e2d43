// Package redis is the store of counters in Redis: one script, and so one
// round trip, a decision, by the clock of the Redis server. Daemons that share
// a Redis share the counters.
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/sleep"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

// firstPause is how long a decision waits before it asks again, the first time
// that Redis tells it to. It is doubled each time.
const firstPause = time.Millisecond

// perLimit is how much longer than the timeout a call may take for each of its
// limits: Redis takes a few microseconds for one, and a batch can have 16,000.
const perLimit = 20 * time.Microsecond

// A Store is a store.Store in Redis. New makes it.
type Store struct {
	composer
	client  redis.UniversalClient
	evicts  evicts
	pipes   *pipeliner
	owner   *ownership
	timeout time.Duration
	panics  *crash.Log

	log              *slog.Logger
	foreign, damaged atomic.Uint64 // values of keys that are no counters; for the metrics
	values           lograte.Gate  // of what is logged of them

	close    sync.Once
	closeErr error
}

var _ store.Store = (*Store)(nil)

// New returns a store that connects when it is first used. The error says
// which option is wrong.
func New(o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("redis store: %w", err)
	}
	options, dialer, err := o.universal()
	if err != nil {
		return nil, fmt.Errorf("redis store: %w", err)
	}
	// The client would print a line for each failed dial. What matters of it
	// is in the errors it returns.
	logging.Disable()
	client := redis.NewUniversalClient(options)
	s := &Store{client: client, composer: composer{dialer, o.KeyPrefix}, timeout: o.Timeout, panics: o.Panics, log: o.Logger}
	s.evicts.log = o.Logger
	s.owner = newOwnership(o.SharedScripts, o.Logger, s.sample)
	s.greet()
	s.pipes = newPipeliner(client, &dialer.lone, newScript(serverClock), s.owner, o.Timeout+o.DialTimeout)
	s.pipes.panics = o.Panics
	return s, nil
}

// sample is what the ownership looks for.
func (s *Store) sample(ctx context.Context) (found int, err error) {
	defer s.panics.Recover("a look for keys in Redis", func(e error) { err = e })
	ctx, cancel := context.WithTimeout(ctx, s.pipes.timeout)
	defer cancel()
	return sample(ctx, s.client, s.prefix)
}

// greet makes the client tell what the servers say when a connection begins.
func (s *Store) greet() {
	switch client := s.client.(type) {
	case *redis.ClusterClient:
		client.OnNewNode(func(node *redis.Client) {
			host, _, _ := net.SplitHostPort(node.Options().Addr)
			node.AddHook(&handshake{host: host, evicts: &s.evicts})
		})
	case *redis.Client:
		client.AddHook(&handshake{met: s.owner.met, evicts: &s.evicts})
	}
}

// Decide sends all requests together, and along with those of other callers.
func (s *Store) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	deadline := store.Deadline(ctx, s.budget(requests))
	var few [2]exchange
	exchanges := slices.Grow(few[:0], len(requests))
	apart := !s.pipes.shares()
	for i := range requests {
		exchanges = s.newExchanges(exchanges, &requests[i], &results[i], apart)
	}
	for pause := firstPause; ; {
		s.ask(ctx, deadline, exchanges)
		exchanges = s.parted(exchanges)
		again, wait := false, false
		for i := range exchanges {
			wait = exchanges[i].again() || wait
			again = exchanges[i].pending || again
		}
		if !again {
			break
		}
		if wait {
			if time.Until(deadline) < pause || !sleep.For(ctx, pause) {
				break // the errors they have are more to the point than that of ctx
			}
			pause *= 2
		}
	}
	for i := range exchanges {
		exchanges[i].decide()
		if err := exchanges[i].result.Err; err != nil {
			s.noteValue(err)
		}
	}
}

// noteValue counts and logs err if it is about the value of a key.
func (s *Store) noteValue(err error) {
	switch {
	case errors.Is(err, errForeign):
		s.foreign.Add(1)
	case errors.Is(err, errDamaged):
		s.damaged.Add(1)
	default:
		return
	}
	if n := s.values.Pass(time.Now()); n > 0 {
		s.log.Error("redis: a key holds what this program did not write; find out who did, or give this program its own Redis", "error", err, "times", n)
	}
}

// parted returns exchanges, of which those that the server refuses to decide together are
// decided apart.
func (s *Store) parted(exchanges []exchange) []exchange {
	for i := range exchanges {
		if c := &exchanges[i]; c.together && c.reply != nil && errors.Is(c.reply.err, errApart) {
			more := s.newExchanges(nil, c.request, c.result, true)
			exchanges[i] = more[0]
			exchanges = append(exchanges, more[1:]...)
		}
	}
	return exchanges
}

// DecidesTogether reports whether r is of one identifier, or one server is known to own
// all keys. Otherwise the counters of several identifiers may be on several servers, or
// in several slots.
func (s *Store) DecidesTogether(r *store.Request) bool { return r.Alone() || s.pipes.shares() }

// budget returns how long requests may take together.
func (s *Store) budget(requests []store.Request) time.Duration {
	limits := 0
	for i := range requests {
		requests[i].All(func(r *store.Request) { limits += len(r.Limits) })
	}
	return s.timeout + time.Duration(limits)*perLimit
}

// ask sends the exchanges that are pending, and waits for their replies.
func (s *Store) ask(ctx context.Context, deadline time.Time, exchanges []exchange) {
	var known [4]destination
	to := known[:0]
	for i := range exchanges {
		c := &exchanges[i]
		c.shipment = nil
		if !c.pending {
			continue
		}
		var d *destination
		d, to = destinationOf(s.pipes.laneOf(ctx, c.key()), to)
		if d.shipment == nil {
			d.shipment = newShipment(ctx, deadline)
		}
		c.load = c.load && !d.loads // once is enough for what comes after
		d.loads = d.loads || c.load
		c.pending, c.shipment, c.index = false, d.shipment, d.shipment.add(c.question)
	}
	for _, d := range to {
		if len(to) > 1 || !s.pipes.sendOwn(d.lane, d.shipment) {
			s.pipes.send(d.lane, d.shipment)
		}
	}
	for i := range exchanges {
		if c := &exchanges[i]; c.shipment != nil {
			if c.cut = c.shipment.wait(); c.cut == nil {
				c.reply = &c.shipment.replies[c.index]
			} else {
				c.reply = nil // the shipment is the sender's
			}
		}
	}
}

// A destination is what one Decide sends down one lane.
type destination struct {
	lane     string
	shipment *shipment
	loads    bool // whether one of the questions loads the script
}

// destinationOf returns that of to which is for lane, adding it if need be.
func destinationOf(lane string, to []destination) (*destination, []destination) {
	i := slices.IndexFunc(to, func(d destination) bool { return d.lane == lane })
	if i < 0 {
		i, to = len(to), append(to, destination{lane: lane})
	}
	return &to[i], to
}

// own returns a context with the store's timeout and not its caller's: to cut
// a command short would cost the connection.
func (s *Store) own(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
}

// Reset deletes the counters of r, in one command.
func (s *Store) Reset(ctx context.Context, r *store.Request) error {
	ctx, cancel := s.own(ctx)
	defer cancel()
	var keys []string
	for i := range r.Limits {
		if l := &r.Limits[i]; !l.Rate.IsUnlimited() {
			keys = append(keys, s.prefix+counterKey(r.Namespace, r.Identifier, l))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if err := s.delete(ctx, keys); err != nil {
		return fmt.Errorf("redis: %w", quote.Error(err))
	}
	return nil
}

// deleteRouted deletes keys where a script finds them: see script.command.
const deleteRouted = `return redis.call('DEL', unpack(KEYS, 2))`

// delete deletes keys, which are of one identifier.
func (s *Store) delete(ctx context.Context, keys []string) error {
	if s.pipes.cluster != nil || s.pipes.shares() {
		return s.client.Del(ctx, keys...).Err()
	}
	return s.client.Eval(ctx, deleteRouted, append([]string{routeOf(keys[0])}, keys...)).Err()
}

// ServerOf returns the address of the cluster's node that has the counters of
// r, or "" if the server is the only one, or not known yet.
func (s *Store) ServerOf(ctx context.Context, r *store.Request) string {
	if s.pipes.cluster == nil {
		return ""
	}
	var room [128]byte // enough for most
	return s.pipes.laneOf(ctx, string(appendTag(room[:0], r.Namespace, r.Identifier)))
}

// healthSample is how many identifiers Health looks at: they are on all servers of most
// clusters, and of what is behind most proxies.
const healthSample = 64

// Health reports whether decisions that consume work, for at least half of some
// identifiers.
func (s *Store) Health(ctx context.Context) error {
	requests, results := make([]store.Request, healthSample), make([]store.Result, healthSample)
	for i := range requests {
		requests[i] = store.HealthSample(i)
	}
	s.Decide(context.WithoutCancel(ctx), requests, results)
	lost := 0
	var errs []error // of which each is there once
	for i := range results {
		err := results[i].Err
		if err == nil {
			continue
		}
		lost++
		if !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
			errs = append(errs, err)
		}
	}
	if 2*lost > healthSample {
		return errors.Join(errs...)
	}
	return nil
}

// Close waits for what is under way, and closes all connections.
func (s *Store) Close() error {
	s.close.Do(func() {
		s.pipes.close()
		s.owner.close()
		s.closeErr = s.client.Close()
	})
	return s.closeErr
}
