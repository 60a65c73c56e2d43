package memcached

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

// maxJoinedBytes is how many bytes are written together, unless one item has more.
const maxJoinedBytes = 64 << 10

// A write is an item to be written: if it is as it was read, or if there is none yet.
type write struct {
	item *memcache.Item
	add  bool          // whether there is none yet
	done chan struct{} // closed when err is set
	err  error
}

// size returns about how many bytes w takes.
func (w *write) size() int { return len(w.item.Key) + len(w.item.Value) }

// startWrite starts to write an item to a server.
func (s *Store) startWrite(on *server, it *memcache.Item, add bool) *write {
	w := &write{item: it, add: add, done: make(chan struct{})}
	if on.writes.add(w) {
		s.running.Go(func() { s.makeWrites(on) })
	}
	return w
}

// await returns the result of w. It stops waiting when ctx ends. If w was not sent by then,
// it is not made.
func (w *write) await(ctx context.Context, on *server) error {
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		on.writes.leave(w)
		return ctx.Err()
	}
}

// makeWrites makes the writes that wait for a server, many at a time, until none waits.
func (s *Store) makeWrites(on *server) {
	for {
		on.slots <- struct{}{} // each exchange has an end, so that there is one soon
		joined := on.writes.next(maxJoinedBytes)
		if joined == nil {
			<-on.slots
			return
		}
		results := make([]error, len(joined))
		if err := s.do(on, func() error { return on.put(joined, results) }); err != nil {
			for i := range results {
				results[i] = err
			}
		}
		for i, w := range joined {
			w.err = on.writeError(results[i], w.item)
			close(w.done)
		}
	}
}

// A pipe is a connection on which writes follow one another without waiting for replies,
// as those of package memcache cannot.
type pipe struct {
	net.Conn
	replies *bufio.Reader
	buf     []byte // what is sent
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
	_ = s.client.Close() // likewise
	s.pipesMu.Lock()
	defer s.pipesMu.Unlock()
	for _, p := range s.pipes {
		_ = p.Close()
	}
	s.pipes = nil
}

// exchange makes writes, and sets the result of each. It reports whether the connection is
// as it was before.
func (p *pipe) exchange(writes []*write, results []error, timeout time.Duration) (reusable bool) {
	p.buf = p.buf[:0]
	for _, w := range writes {
		p.buf = w.append(p.buf)
	}
	err := p.SetDeadline(time.Now().Add(timeout))
	if err == nil {
		_, err = p.Write(p.buf)
	}
	if cap(p.buf) > maxJoinedBytes*2 { // of a large item: seldom
		p.buf = nil
	}
	reusable = true
	for i := range writes {
		var line []byte
		if err == nil {
			line, err = p.replies.ReadSlice('\n')
		}
		if err != nil {
			results[i], reusable = err, false
			continue
		}
		switch line = bytes.TrimSuffix(line, []byte("\r\n")); string(line) {
		case "STORED":
		case "NOT_STORED":
			results[i] = memcache.ErrNotStored
		case "EXISTS":
			results[i] = memcache.ErrCASConflict
		case "NOT_FOUND":
			results[i] = memcache.ErrCacheMiss
		default:
			results[i], reusable = fmt.Errorf("the server answers a write with %q", line), false
			if !bytes.HasPrefix(line, []byte("SERVER_ERROR ")) { // after which the next reply is that of the next write
				err = errors.New("the server does not know what another write is")
			}
		}
	}
	return reusable
}

// append appends the command for w to b.
func (w *write) append(b []byte) []byte {
	command := "cas "
	if w.add {
		command = "add "
	}
	b = append(append(b, command...), w.item.Key...)
	b = append(b, " 0 "...)
	b = strconv.AppendInt(b, int64(w.item.Expiration), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(w.item.Value)), 10)
	if !w.add {
		b = append(b, ' ')
		b = strconv.AppendUint(b, w.item.CasID, 10)
	}
	b = append(b, "\r\n"...)
	return append(append(b, w.item.Value...), "\r\n"...)
}
