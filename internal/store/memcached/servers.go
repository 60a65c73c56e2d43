package memcached

import (
	"bufio"
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

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

// A server is one memcached. It is identified by its address as it was written. A host
// name is looked up for each connection, because its address may change.
type server struct {
	addr   string
	hash   uint64
	client *memcache.Client
	slots  chan struct{} // has one element for each connection in use
	most   atomic.Int64  // how large a value may be; 0 means maxItemBytes

	reads  queue[*read]
	writes queue[*write]

	pipesMu sync.Mutex // protects the following
	pipes   []*pipe    // connections for writes that are not in use
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

var (
	errConflict = fmt.Errorf("%w: somebody else wrote them in between", store.ErrCounters)
	errTooLarge = errors.New("that is more than the server allows for one item; run memcached with a greater -I, or lower the counts of sliding_window_log limits")
)

// writeError returns what err means. err is the result of writing the item it.
func (s *server) writeError(err error, it *memcache.Item) error {
	switch {
	case errors.Is(err, memcache.ErrNotStored), errors.Is(err, memcache.ErrCASConflict), errors.Is(err, memcache.ErrCacheMiss):
		return errConflict
	case err != nil && strings.Contains(err.Error(), "too large"):
		s.tooLarge(len(it.Value))
		return fmt.Errorf("the counters of %s take %d bytes: %w: %w: %w", quote.Cut(it.Key), len(it.Value), errTooLarge, store.ErrCounters, quote.Error(err))
	default:
		return err
	}
}

// named returns err with the address of s, or nil.
func (s *server) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("memcached %s: %w", s.addr, quote.Error(err))
}

// Each server has its own client, which knows no other server.
var (
	_ memcache.ServerSelector = (*server)(nil)
	_ net.Addr                = (*server)(nil)
)

// newServer returns the server at addr. Its connections are closed when ctx
// ends.
func newServer(ctx context.Context, addr string, o Options) *server {
	s := &server{addr: addr, hash: hash(addr), slots: make(chan struct{}, o.MaxConns)}
	s.client = memcache.NewFromSelector(s)
	s.client.Timeout, s.client.MaxIdleConns = o.Timeout, o.MaxConns
	s.client.DialContext = dialer(ctx)
	return s
}

// PickServer implements memcache.ServerSelector.
func (s *server) PickServer(string) (net.Addr, error) { return s, nil }

// Each implements memcache.ServerSelector.
func (s *server) Each(f func(net.Addr) error) error { return f(s) }

// Network implements net.Addr.
func (s *server) Network() string { return "tcp" }

func (s *server) String() string { return s.addr }

// get returns the items of the keys that the server has. It may try twice: when a
// server restarts, all idle connections break, and reading consumes nothing.
func (s *server) get(keys []string) (map[string]*memcache.Item, error) {
	items, err := s.getOnce(keys)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		s.closeIdle()
		items, err = s.getOnce(keys)
	}
	return items, err
}

func (s *server) getOnce(keys []string) (map[string]*memcache.Item, error) {
	if len(keys) == 1 {
		item, err := s.client.Get(keys[0])
		switch {
		case errors.Is(err, memcache.ErrCacheMiss):
			return nil, nil
		case err != nil:
			return nil, err
		case item.Key != keys[0]:
			return nil, s.notAskedFor(item.Key)
		}
		return map[string]*memcache.Item{item.Key: item}, nil
	}
	items, err := s.client.GetMulti(keys)
	if err != nil {
		return nil, err
	}
	asked := make(map[string]struct{}, len(keys))
	for _, key := range keys {
		asked[key] = struct{}{}
	}
	for key := range items {
		if _, ok := asked[key]; !ok {
			return nil, s.notAskedFor(key)
		}
	}
	return items, nil
}

// notAskedFor returns the error of a reply with the item of another key: what follows on its
// connection may answer other questions too.
func (s *server) notAskedFor(key string) error {
	s.closeIdle()
	return fmt.Errorf("%w: the item of %s, which was not asked for", errReply, quote.Cut(key))
}

// put makes writes, and sets the result of each. It does not try again: a write whose reply
// did not come may have happened.
func (s *server) put(writes []*write, results []error) error {
	p, err := s.pipe()
	if err != nil {
		return err
	}
	if reusable := p.exchange(writes, results, s.client.Timeout); !reusable {
		_ = p.Close()
		return nil
	}
	s.pipesMu.Lock()
	defer s.pipesMu.Unlock()
	s.pipes = append(s.pipes, p)
	return nil
}

// pipe returns a connection that is not in use.
func (s *server) pipe() (*pipe, error) {
	s.pipesMu.Lock()
	if last := len(s.pipes) - 1; last >= 0 {
		p := s.pipes[last]
		s.pipes = s.pipes[:last]
		s.pipesMu.Unlock()
		return p, nil
	}
	s.pipesMu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), s.client.Timeout)
	defer cancel()
	c, err := s.client.DialContext(ctx, s.Network(), s.String())
	if err != nil {
		return nil, err
	}
	return &pipe{Conn: c, replies: bufio.NewReaderSize(c, maxLineBytes)}, nil
}

// closeIdle closes the connections that are not in use.
func (s *server) closeIdle() {
	_ = s.client.Close() // which closes just those
	s.pipesMu.Lock()
	defer s.pipesMu.Unlock()
	for _, p := range s.pipes {
		_ = p.Close()
	}
	s.pipes = nil
}

// dialer returns a function that opens connections, which are closed when done ends.
func dialer(done context.Context) func(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(done, cancel)()
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: c, closed: context.AfterFunc(done, func() { _ = c.Close() })}, nil
	}
}

// A conn is a connection that its dialer closes when the store is closed. Once it is
// closed before that, the dialer must forget it.
type conn struct {
	net.Conn
	closed func() bool // makes the dialer forget the connection

	replies replyScanner
}

// Read implements net.Conn. What breaks a bound is not returned.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if broken := c.replies.scan(p[:n]); broken != nil {
		_ = c.Close()
		return 0, broken
	}
	return n, err
}

func (c *conn) Close() error {
	c.closed()
	return c.Conn.Close()
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
