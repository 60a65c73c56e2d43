package memcached

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

const (
	// maxValueBytes is the greatest value that is read: much more than is written,
	// and than a server allows by default.
	maxValueBytes = 4 << 20
	// maxReplyBytes is for all values of one reply: those of a batch.
	maxReplyBytes = 256 << 20
	// maxLineBytes is how long a line may be: a key has 250 bytes at most.
	maxLineBytes = 2 << 10
)

// errReply is wrapped by the error of a connection whose server sends what no
// memcached should.
var errReply = errors.New("the server sends what is no reply of memcached")

// A replyScanner follows the replies of a server as they come in. The client allocates
// a value as it is announced, and reads values until they end, so their bounds are kept
// before the client sees them.
type replyScanner struct {
	skip  int    // bytes of a value that are to come
	total int    // bytes of the reply so far
	line  []byte // what has come of the line
}

// scan reads what comes next. The error says which bound it breaks.
func (s *replyScanner) scan(b []byte) error {
	for len(b) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(b))
			s.skip -= n
			b = b[n:]
			continue
		}
		n := bytes.IndexByte(b, '\n') + 1
		ends := n > 0
		if !ends {
			n = len(b)
		}
		if len(s.line)+n > maxLineBytes {
			return fmt.Errorf("%w: a line of more than %d bytes", errReply, maxLineBytes)
		}
		s.line = append(s.line, b[:n]...)
		b = b[n:]
		if ends {
			err := s.header()
			s.line = s.line[:0]
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// header reads a line that has ended: VALUE <key> <flags> <bytes> [<cas>] announces
// a value, and any other is a reply of its own or ends one.
func (s *replyScanner) header() error {
	value, ok := bytes.CutPrefix(s.line, []byte("VALUE "))
	if !ok {
		s.total = 0
		return nil
	}
	var size []byte
	if fields := bytes.Fields(value); len(fields) >= 3 {
		size = fields[2]
	}
	n, err := strconv.ParseUint(string(size), 10, 32)
	if err != nil {
		return fmt.Errorf("%w: a value of %q bytes", errReply, size)
	}
	if n > maxValueBytes {
		return fmt.Errorf("%w: a value of more than %d bytes", errReply, maxValueBytes)
	}
	s.skip = int(n) + len("\r\n")
	if s.total += len(s.line) + s.skip; s.total > maxReplyBytes {
		return fmt.Errorf("%w: more than %d bytes of values", errReply, maxReplyBytes)
	}
	return nil
}
