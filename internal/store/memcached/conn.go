package memcached

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

const (
	// maxValueBytes is the greatest value that is read: much more than is written,
	// and than a server allows by default.
	maxValueBytes = 4 << 20
	// maxReplyBytes is for all values of one exchange: those of a batch.
	maxReplyBytes = 256 << 20
	// maxLineBytes is how long a line of a reply may be, and how much is read at a time: a
	// key has 250 bytes at most.
	maxLineBytes = 16 << 10
)

var (
	// errReply is wrapped by the errors of replies that say neither what was found nor what became
	// of a write: they are refusals, or none of memcached.
	errReply    = errors.New("a reply that is of no use")
	errConflict = fmt.Errorf("%w: somebody else wrote them in between", store.ErrCounters)
)

// A conn is a connection to a server. The text protocol is that of doc/protocol.txt of memcached.
type conn struct {
	net.Conn
	closed func() bool // makes who closes it with the store forget it

	replies *bufio.Reader
	buf     []byte    // what is sent
	reads   []reading // what is read
}

// A reading is one item that is read.
type reading struct {
	key string
	to  *found
}

func newConn(c net.Conn, closed func() bool) *conn {
	return &conn{Conn: c, closed: closed, replies: bufio.NewReaderSize(c, maxLineBytes)}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// exchange makes asks: it sends them all, and then reads all replies. Those to the writes come
// first, so that no reply to a read keeps anybody from knowing what became of a write. It sets the
// err of each, and what each has found. It reports whether the connection is as it was before.
func (c *conn) exchange(asks []*ask, timeout time.Duration) (reusable bool) {
	c.compose(asks)
	err := c.SetDeadline(time.Now().Add(timeout))
	if err == nil {
		_, err = c.Write(c.buf)
	}
	if cap(c.buf) > 2*maxJoinedBytes { // of a large item: seldom
		c.buf = nil
	}
	reusable = true
	for _, a := range asks {
		if a.isRead() {
			continue
		}
		if err == nil {
			a.err, err = c.readWritten()
			reusable = reusable && (a.err == nil || errors.Is(a.err, errConflict))
		}
		if err != nil {
			a.err = err
		}
	}
	if err == nil && len(c.reads) > 0 {
		err = c.readValues()
	}
	for _, a := range asks {
		if a.isRead() {
			a.err = err
		}
	}
	clear(c.reads) // which would keep what was found
	return reusable && err == nil
}

// compose sets what asks send and read.
func (c *conn) compose(asks []*ask) {
	c.buf, c.reads = c.buf[:0], c.reads[:0]
	for _, a := range asks {
		if !a.isRead() {
			c.buf = a.write.append(c.buf)
			continue
		}
		for i, key := range a.keys {
			a.found[i] = found{}
			c.reads = append(c.reads, reading{key, &a.found[i]})
		}
	}
	if len(c.reads) == 0 {
		return
	}
	c.buf = append(c.buf, "gets"...)
	for _, r := range c.reads {
		c.buf = append(append(c.buf, ' '), r.key...)
	}
	c.buf = append(c.buf, "\r\n"...)
}

// readLine reads a line of a reply, which is valid until the next read.
func (c *conn) readLine() ([]byte, error) {
	line, err := c.replies.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line of more than %d bytes", errReply, maxLineBytes)
	}
	return bytes.TrimSuffix(line, []byte("\r\n")), err
}

// readWritten reads the reply to a write. failed is what the reply says; after err, nobody knows
// what the next reply is.
func (c *conn) readWritten() (failed, err error) {
	line, err := c.readLine()
	if err != nil {
		return nil, err
	}
	switch string(line) {
	case "STORED":
		return nil, nil
	case "NOT_STORED", "EXISTS", "NOT_FOUND":
		return errConflict, nil
	}
	failed = fmt.Errorf("%w: to a write %s", errReply, quote.Cut(string(line)))
	if !bytes.HasPrefix(line, []byte("SERVER_ERROR ")) { // after which the next reply is that of the next ask
		return failed, fmt.Errorf("%w: to another write %s", errReply, quote.Cut(string(line)))
	}
	return failed, nil
}

// readValues reads the reply to the reads:
//
//	VALUE <key> <flags> <bytes> <cas unique>
//	<value>
//	END
//
// with the first two lines for each item that there is.
func (c *conn) readValues() error {
	next, total := 0, 0
	for {
		line, err := c.readLine()
		if err != nil {
			return err
		}
		header, ok := bytes.CutPrefix(line, []byte("VALUE "))
		if !ok && string(line) == "END" {
			return nil
		}
		key, header, _ := bytes.Cut(header, []byte(" "))
		_, header, _ = bytes.Cut(header, []byte(" "))
		bytesOf, cas, _ := bytes.Cut(header, []byte(" "))
		size, sizeErr := strconv.ParseUint(string(bytesOf), 10, 32)
		unique, casErr := strconv.ParseUint(string(cas), 10, 64)
		if !ok || sizeErr != nil || casErr != nil {
			return fmt.Errorf("%w: to a read %s", errReply, quote.Cut(string(line)))
		}
		if size > maxValueBytes {
			return fmt.Errorf("%w: a value of more than %d bytes", errReply, maxValueBytes)
		}
		if total += int(size); total > maxReplyBytes {
			return fmt.Errorf("%w: more than %d bytes of values", errReply, maxReplyBytes)
		}
		if next = c.find(key, next); next < 0 {
			return fmt.Errorf("%w: the item of %s, which was not asked for", errReply, quote.Cut(string(key)))
		}
		value, err := c.readValue(int(size))
		if err != nil {
			return err
		}
		*c.reads[next].to = found{value: value, cas: unique, there: true}
	}
}

// find returns the index of the read of key that has no item yet, or -1. It looks from one index on,
// as a server replies in the order in which it was asked; a proxy before several may not.
func (c *conn) find(key []byte, from int) int {
	for i := range c.reads {
		n := (from + i) % len(c.reads)
		if r := &c.reads[n]; r.key == string(key) && !r.to.there {
			return n
		}
	}
	return -1
}

// readValue reads a value of size bytes, and the end of its line.
func (c *conn) readValue(size int) ([]byte, error) {
	value := make([]byte, size+len("\r\n"))
	if _, err := io.ReadFull(c.replies, value); err != nil {
		return nil, err
	}
	value, ok := bytes.CutSuffix(value, []byte("\r\n"))
	if !ok {
		return nil, fmt.Errorf("%w: a value that does not end after %d bytes", errReply, size)
	}
	return value, nil
}
