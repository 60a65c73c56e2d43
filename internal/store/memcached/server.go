package memcached

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

// goroutines are those that a store has started. The zero value is ready for use.
type goroutines struct {
	panics  *crash.Log
	running sync.WaitGroup
}

// A server is one memcached. It is identified by its address as it was written. A host
// name is looked up for each connection, because its address may change.
type server struct {
	addr    string
	hash    uint64
	timeout time.Duration // of an exchange
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	store   context.Context // ends when the store is closed
	senders *goroutines
	queue   queue
	most    atomic.Int64 // how large a value may be; 0 means maxItemBytes

	mu   sync.Mutex // protects the following
	idle []*conn
}

// newServer returns the server at addr. Its connections are closed when ctx ends.
func newServer(ctx context.Context, addr string, o Options, senders *goroutines) *server {
	s := &server{addr: addr, hash: hash(addr), timeout: o.Timeout, dial: new(net.Dialer).DialContext, store: ctx, senders: senders}
	s.queue.maxSenders = o.MaxConns
	s.queue.late = time.AfterFunc(joinTime, func() {
		if s.queue.isLate() {
			s.startSender()
		}
	})
	s.queue.late.Stop()
	return s
}

// send has a be asked, along with what else waits.
func (s *server) send(a *ask) *ask {
	if s.queue.add(a) {
		s.startSender()
	}
	return a
}

// await waits until a, which was sent, is done, and returns its error. If the caller leaves, and a
// was not asked by then, it is not made.
func (s *server) await(by caller, a *ask) error {
	if err := by.await(a.done); err != nil {
		s.queue.leave(a)
		return err
	}
	return a.err
}

// startSender starts a sender, which asks what waits until nothing does.
func (s *server) startSender() {
	s.senders.running.Go(func() {
		for {
			asks := s.queue.next()
			if asks == nil {
				return
			}
			begun := time.Now()
			s.ask(asks)
			s.queue.took(time.Since(begun))
			for _, a := range asks {
				close(a.done)
			}
		}
	})
}

// ask makes asks together. It tries reads twice if the connection breaks: when a server restarts,
// all idle connections do, and reading consumes nothing. A write whose reply did not come may have
// happened. Reads that meet what is no reply are made once more, each alone: an item of one of them
// should not cost the others theirs.
func (s *server) ask(asks []*ask) {
	s.exchange(asks)
	var again []*ask
	broken := false
	for _, a := range asks {
		if a.isRead() && a.err != nil {
			again = append(again, a)
			broken = errors.Is(a.err, io.EOF) || errors.Is(a.err, syscall.ECONNRESET) || errors.Is(a.err, syscall.EPIPE)
		}
	}
	switch {
	case broken:
		s.closeIdle()
		s.exchange(again)
	case len(asks) > 1:
		for _, a := range again {
			if errors.Is(a.err, errReply) {
				s.exchange([]*ask{a})
			}
		}
	}
}

// exchange makes asks in one exchange, and sets what each has found, or its error. That of an
// exchange that panics says nothing of the server.
func (s *server) exchange(asks []*ask) {
	fail := func(err error) {
		for _, a := range asks {
			a.err = err
		}
	}
	defer s.senders.panics.Recover("an exchange with memcached", func(err error) { fail(fmt.Errorf("%w: %w", store.ErrCounters, err)) })
	c, err := s.conn()
	if err != nil {
		fail(err)
		return
	}
	reusable := false
	defer func() {
		if !reusable {
			_ = c.Close()
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.idle = append(s.idle, c)
	}()
	reusable = c.exchange(asks, s.timeout)
}

// conn returns a connection that is not in use.
func (s *server) conn() (*conn, error) {
	s.mu.Lock()
	if last := len(s.idle) - 1; last >= 0 {
		c := s.idle[last]
		s.idle = s.idle[:last]
		s.mu.Unlock()
		return c, nil
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.store, s.timeout)
	defer cancel()
	c, err := s.dial(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	return newConn(c, context.AfterFunc(s.store, func() { _ = c.Close() })), nil
}

// closeIdle closes the connections that are not in use.
func (s *server) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.idle {
		_ = c.Close()
	}
	s.idle = nil
}

// maxItem returns how large a value may be.
func (s *server) maxItem() int {
	if most := s.most.Load(); most > 0 {
		return int(most)
	}
	return maxItemBytes
}

// tooLarge notes that the server refuses values of so many bytes: it runs with a small
// -I. From now on they have half of that at most.
func (s *server) tooLarge(bytes int) {
	most := int64(max(bytes/2, minItemBytes))
	for {
		was := s.most.Load()
		if was > 0 && was <= most || s.most.CompareAndSwap(was, most) {
			return
		}
	}
}

var errTooLarge = errors.New("that is more than the server allows for one item; run memcached with a greater -I, or lower the counts of sliding_window_log limits")

// writeError returns what err means, with which w has failed, or nil.
func (s *server) writeError(err error, w *write) error {
	if err != nil && strings.Contains(err.Error(), "too large") {
		s.tooLarge(len(w.value))
		err = fmt.Errorf("the counters of %s take %d bytes: %w: %w: %w", quote.Cut(w.key), len(w.value), errTooLarge, store.ErrCounters, quote.Error(err))
	}
	return s.named(err)
}

// named returns err with the address of s, or nil.
func (s *server) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("memcached %s: %w", s.addr, quote.Error(err))
}

// pick returns the server of key by rendezvous hashing: the server whose address,
// hashed together with the key, gives the greatest number. So all daemons with the
// same addresses pick the same server, in whichever order they have them. When one
// of n servers is added or removed, only its keys move, which are one in n.
func pick(servers []*server, key string) *server {
	best, most, h := servers[0], uint64(0), hash(key)
	for _, s := range servers {
		if score := mix(s.hash ^ h); score > most {
			best, most = s, score
		}
	}
	return best
}

func hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return mix(h.Sum64())
}

// mix makes each bit of the result depend on all bits of h. It is the last step of
// MurmurHash3. Without it, the scores of two servers would differ by about the same
// for all keys, and one server would win too many of them.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
