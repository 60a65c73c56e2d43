package inflight

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
)

const (
	// readBytes is how much is read from a connection at a time: as much as gRPC does.
	readBytes = 32 << 10
	// burst is how many frames are read before other goroutines go first. What a client sends
	// at a time can be hundreds of calls that it cancels at once, each of which starts work.
	burst = 64
	// patience is how long a connection may take to end a call. One that takes longer,
	// as its client has stopped in the middle of a frame, ends as a whole.
	patience = time.Second
)

// credentialsOf make a Conn of each connection.
type credentialsOf struct {
	credentials.TransportCredentials
	bound *Bound
}

// Credentials returns credentials that do as c, and have b bound what calls hold. gRPC
// must not read ahead: see grpc.ReadBufferSize.
func (b *Bound) Credentials(c credentials.TransportCredentials) credentials.TransportCredentials {
	return credentialsOf{c, b}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c credentialsOf) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return secure, info, err
	}
	return newConn(c.bound, secure), info, nil
}

// Clone implements credentials.TransportCredentials.
func (c credentialsOf) Clone() credentials.TransportCredentials {
	return credentialsOf{c.TransportCredentials.Clone(), c.bound}
}

// A Conn is the server's side of a connection of HTTP/2 that carries gRPC. It counts what
// its calls hold. gRPC reads it with one goroutine, a frame at a time, and writes it with
// another.
type Conn struct {
	net.Conn
	bound *Bound
	peer  address

	// Of the goroutine that reads.
	buffered *bufio.Reader
	in       frames
	newest   uint32 // the last call that began
	begun    int    // how many frames have begun since others went first
	data     struct {
		left   int64 // of the frame, without its padding
		padded bool  // the length of the padding comes next
		spare  int64 // what it takes beside its bytes, and is not counted yet
	}

	out frames // of the goroutine that writes

	bytes   atomic.Int64 // held
	pressed atomic.Bool  // whether ending is not empty
	woken   atomic.Bool  // whether a read was interrupted for that

	mu     sync.Mutex // protects the following
	calls  map[uint32]*call
	ending []http2.StreamError
	ended  int     // how many of these are done
	idle   []*call // to be used again
	closed bool
}

// A call is what is known of one. Times are ticks of the bound.
type call struct {
	bytes int64 // that it holds
	begun uint32

	// The message that is arriving, if any.
	prefix    [5]byte
	have      uint8  // bytes of the prefix
	left      uint32 // bytes of the message that follows
	since     uint32 // when it began
	arrived   bool   // whether one has arrived as a whole
	endIfLate bool   // whether the call ends if that takes long
	spare     int64  // bytes of the buffers of frames that hold nothing

	unsent int64  // bytes of replies
	moved  uint32 // when last a reply was written, or added to none
}

func newConn(b *Bound, under net.Conn) *Conn {
	const preface = len(http2.ClientPreface)
	c := &Conn{Conn: under, bound: b, buffered: bufio.NewReaderSize(under, readBytes), calls: map[uint32]*call{}}
	c.in.left = uint32(preface)
	c.peer = address{under.RemoteAddr(), c}
	return c
}

// An address is that of a peer, by which the Conn of a call is found.
type address struct {
	net.Addr
	conn *Conn
}

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return &c.peer }

// Read implements net.Conn. Between two frames it returns an http2.StreamError for a call
// that is to be ended: gRPC then ends it, tells the client, and reads on.
func (c *Conn) Read(p []byte) (int, error) {
	if c.begun >= burst {
		c.begun = 0
		runtime.Gosched()
	}
	for {
		if c.pressed.Load() && c.in.between() {
			if end, ok := c.nextEnd(); ok {
				return 0, end
			}
		}
		n, err := c.buffered.Read(p)
		if n > 0 {
			c.received(p[:n])
		}
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !c.woken.Swap(false) {
			return n, err
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
	}
}

// nextEnd returns the next call to be ended.
func (c *Conn) nextEnd() (http2.StreamError, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ending) == 0 {
		return http2.StreamError{}, false
	}
	end := c.ending[0]
	c.ending = c.ending[1:]
	c.ended++
	c.pressed.Store(len(c.ending) > 0)
	return end, true
}

// received follows what the client sends.
func (c *Conn) received(p []byte) {
	for len(p) > 0 {
		part, rest, began := c.in.next(p)
		p = rest
		if began {
			c.begun++
		}
		switch {
		case began && c.in.kind == http2.FrameHeaders, began && c.in.kind == http2.FrameContinuation:
			c.header()
		case began && c.in.kind == http2.FrameData:
			c.data.left, c.data.padded = int64(c.in.left), c.in.flags.Has(http2.FlagDataPadded)
			c.data.spare = spare(c.data.left)
		case began && c.in.kind == http2.FrameRSTStream:
			c.mu.Lock()
			c.endLocked(c.in.stream)
			c.mu.Unlock()
		case len(part) > 0 && c.in.kind == http2.FrameData: // and no piece of a prefix
			c.payload(part)
		}
	}
}

// header counts the frame of headers that has begun, and the call that begins with it.
func (c *Conn) header() {
	n := 2 * int64(c.in.left) // as they are compressed
	id := c.in.stream
	if c.newest == 0 {
		c.bound.enter(c)
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		c.bound.leave(c)
		return
	}
	held := c.calls[id]
	if held == nil && id > c.newest {
		c.newest = id
		held = c.newCallLocked()
		c.calls[id] = held
		n += callBytes
	}
	over := held != nil && c.addLocked(held, n)
	c.mu.Unlock()
	if over && c.bound.relieve(c, id) {
		c.begun = burst // whoever always asks for more lets others go first
	}
}

func (c *Conn) newCallLocked() *call {
	now := c.bound.now.Load()
	if last := len(c.idle) - 1; last >= 0 {
		held := c.idle[last]
		c.idle = c.idle[:last]
		*held = call{begun: now}
		return held
	}
	return &call{begun: now}
}

// payload counts the messages that begin in a part of a frame of data.
func (c *Conn) payload(part []byte) {
	if c.data.padded {
		c.data.padded = false
		padding := 1 + int64(part[0])
		c.data.left -= padding
		c.data.spare += padding // the buffer has it too
		part = part[1:]
	}
	if c.data.left <= 0 {
		c.data.spare = 0 // gRPC does not keep a frame without data
	}
	part = part[:max(0, min(int64(len(part)), c.data.left))]
	c.data.left -= int64(len(part))
	c.mu.Lock()
	held, n := c.calls[c.in.stream], c.data.spare // n: bytes to count
	if held != nil {
		held.spare += n
	}
	c.data.spare = 0
	for held != nil && len(part) > 0 {
		if held.left > 0 {
			size := min(int(held.left), len(part))
			held.left -= uint32(size) //nolint:gosec // at most left
			held.arrived = held.arrived || held.left == 0
			part = part[size:]
			continue
		}
		if held.have == 0 {
			held.since = c.bound.now.Load()
		}
		size := copy(held.prefix[held.have:], part)
		held.have += uint8(size) //nolint:gosec // at most 5
		part = part[size:]
		if int(held.have) < len(held.prefix) {
			break
		}
		held.have = 0
		held.left = binary.BigEndian.Uint32(held.prefix[1:])
		held.arrived = held.arrived || held.left == 0
		// One that is longer than it may be, gRPC refuses.
		n += messageBytes + min(int64(held.left), int64(c.bound.o.MessageBytes))
	}
	over := held != nil && n > 0 && c.addLocked(held, n)
	c.mu.Unlock()
	if over {
		c.bound.relieve(c, c.in.stream)
	}
}

// frameBytes is what gRPC takes to keep a frame of data until its message is there, beside
// the buffer: the header of a slice, its place in a list that grows, and what the smallest
// allocation leaves over.
const frameBytes = 64

// spare returns what a frame of data takes beside its bytes: what is left over of the buffer
// that gRPC reads it into, and frameBytes. It is far more than the bytes if somebody sends
// them one by one. (gRPC makes one buffer of many, but only while nobody reads them.)
func spare(bytes int64) int64 {
	const ownSize = 1 << 10 // up to this, a frame gets a buffer of its own size
	for _, size := range []int64{4 << 10, 16 << 10} {
		if bytes > ownSize && bytes <= size {
			return size - bytes + frameBytes
		}
	}
	return frameBytes
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	for p = p[:n]; len(p) > 0; {
		_, rest, began := c.out.next(p)
		p = rest
		if !began {
			continue
		}
		switch {
		case c.out.kind == http2.FrameData:
			c.repliedLocked(c.out.stream, int64(c.out.left))
		case c.out.kind == http2.FrameRSTStream, c.out.kind == http2.FrameHeaders && c.out.flags.Has(http2.FlagHeadersEndStream):
			c.answeredLocked(c.out.stream)
		}
	}
	return n, err
}

// repliedLocked counts n bytes of a reply that are written.
func (c *Conn) repliedLocked(id uint32, n int64) {
	held := c.calls[id]
	if held == nil || held.unsent == 0 {
		return
	}
	n = min(n, held.unsent)
	held.unsent -= n
	held.moved = c.bound.now.Load()
	c.addLocked(held, -n)
}

// answeredLocked has a call end that the server has answered.
func (c *Conn) answeredLocked(id uint32) {
	if held := c.calls[id]; held != nil && !held.arrived && c.bound.now.Load()-held.begun >= ticks-1 {
		c.bound.lateMessages.Add(1)
	}
	c.endLocked(id)
}

// addLocked counts n more bytes of a call, and reports whether they are too many.
func (c *Conn) addLocked(held *call, n int64) (over bool) {
	held.bytes += n
	c.bytes.Add(n)
	return c.bound.add(n)
}

// endLocked has a call no longer hold anything.
func (c *Conn) endLocked(id uint32) {
	held := c.calls[id]
	if held == nil {
		return
	}
	c.addLocked(held, -held.bytes)
	delete(c.calls, id)
	const most = 16
	if len(c.idle) < most {
		c.idle = append(c.idle, held)
	}
}

// cancelLocked has the goroutine that reads end a call, with a code that its client is told.
func (c *Conn) cancelLocked(id uint32, code http2.ErrCode) {
	c.endLocked(id)
	c.ending = append(c.ending, http2.StreamError{StreamID: id, Code: code})
	if !c.pressed.Swap(true) {
		ended := c.ended
		time.AfterFunc(patience, func() { c.closeIfStuck(ended) })
	}
	c.woken.Store(true)
	_ = c.SetReadDeadline(time.Unix(1, 0)) // it fails on a connection that is closed
}

// closeIfStuck closes a connection that has ended no call since.
func (c *Conn) closeIfStuck(ended int) {
	c.mu.Lock()
	stuck := len(c.ending) > 0 && c.ended == ended
	c.mu.Unlock()
	if stuck {
		_ = c.Close()
	}
}

// holding implements holder.
func (c *Conn) holding() int64 { return c.bytes.Load() }

// from implements holder.
func (c *Conn) from() string { return c.peer.String() }

// shed implements holder. Clients know the code as RESOURCE_EXHAUSTED.
func (c *Conn) shed(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[id] == nil {
		var most int64
		for other, held := range c.calls {
			if held.bytes > most || held.bytes == most && other > id {
				id, most = other, held.bytes
			}
		}
	}
	if c.calls[id] == nil {
		return false
	}
	c.cancelLocked(id, http2.ErrCodeEnhanceYourCalm)
	return true
}

// endLate implements holder.
func (c *Conn) endLate(now uint32) {
	const most = ticks + 1 // gRPC's own deadline comes first
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, held := range c.calls {
		switch {
		case (held.left > 0 || held.have > 0) && now-held.since > most,
			held.endIfLate && !held.arrived && now-held.begun > most:
			c.bound.lateMessages.Add(1)
			c.cancelLocked(id, http2.ErrCodeCancel)
		case held.unsent > 0 && now-held.moved > most:
			c.bound.lateReplies.Add(1)
			c.cancelLocked(id, http2.ErrCodeCancel)
		}
	}
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	c.closed = true
	for id := range c.calls {
		c.endLocked(id)
	}
	c.mu.Unlock()
	c.bound.leave(c)
	return err
}
