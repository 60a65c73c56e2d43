package memcached

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

// maxJoinedBytes is how many bytes are written together, unless one item has more.
const maxJoinedBytes = 64 << 10

// A pipe is a connection on which writes follow one another without waiting for replies,
// as those of package memcache cannot.
type pipe struct {
	net.Conn
	replies *bufio.Reader
	buf     []byte // what is sent
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
