package memory

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A snapshot is a file with the counters of a store:
//
//	magic, version      12 bytes; the rest is that of version 1
//	frames              each is its length, 4 bytes; so many bytes; and the CRC-32C, 4 bytes,
//	                    of all frames up to here, so that none can be missing
//
// Numbers of a fixed size are little-endian. Each frame is of one kind, its first byte. There is one of the
// head, then those of counters, then one of the end. The counters of a frame are preceded by
// those groups that are new.
//
// Each counter is as it was at some instant while the snapshot was taken. Between any
// two counters, the store may have decided.
const (
	magic   = "ratelim\n"
	version = 1

	headFrame    = 'H' // the instant, the secrets of the hasher, and what was agreed on
	counterFrame = 'C' // groups and counters
	endFrame     = 'E' // how many counters there are

	maxFrame = 1 << 30 // a log of a million units in debt takes some 20 MB
)

// The first byte of what is in a counterFrame.
const (
	groupRecord = 1 << iota // otherwise it is a counter
	restRecord              // of a group: its owner is namespaces.rest
	shutRecord              // of a counter: it is shut
	logRecord               // of a counter: it has a log
	recordFlags = groupRecord | restRecord | shutRecord | logRecord
)

const (
	// sliceCounters is how many numbers of counters a snapshot looks at while it holds a
	// shard's lock. That takes some 10 µs. If they have logs, it stops earlier, at
	// sliceBytes.
	sliceCounters = chunkSize
	sliceBytes    = 64 << 10

	// maxInstant is far beyond any Instant, and far from an overflow.
	maxInstant = 1 << 60
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A frameWriter writes a snapshot.
type frameWriter struct {
	to       *bufio.Writer
	frame    []byte // with room for its length in front
	sum      uint32
	groups   map[groupName]uint64
	counters uint64
}

// A groupName is what a group is known by in all shards.
type groupName struct {
	owner *namespace
	limit uint64
}

// begin makes the frame an empty one of a kind.
func (w *frameWriter) begin(kind byte) { w.frame = append(w.frame[:0], 0, 0, 0, 0, kind) }

// end writes the frame.
func (w *frameWriter) end() error {
	binary.LittleEndian.PutUint32(w.frame, uint32(len(w.frame)-4))
	w.sum = crc32.Update(w.sum, castagnoli, w.frame)
	w.frame = binary.LittleEndian.AppendUint32(w.frame, w.sum)
	_, err := w.to.Write(w.frame)
	return err
}

// write writes a snapshot of s to a file, and returns how many counters are in it. It holds
// no lock for longer than sliceCounters take, and makes no other goroutine wait for its
// processor.
func (s *stripes) write(to io.Writer) (counters uint64, err error) {
	w := frameWriter{to: bufio.NewWriterSize(to, sliceBytes), groups: map[groupName]uint64{}}
	taken := s.now()
	_, _ = w.to.WriteString(magic) // an error comes back at the end
	_ = binary.Write(w.to, binary.LittleEndian, uint32(version))
	w.begin(headFrame)
	w.frame = binary.LittleEndian.AppendUint64(w.frame, uint64(taken))
	w.frame = s.hash.append(w.frame)
	w.frame = s.agreement.append(w.frame)
	if err := w.end(); err != nil {
		return 0, err
	}
	for i := range s.shards {
		for n, more := uint32(0), true; more; {
			w.begin(counterFrame)
			n, more = s.shards[i].appendSlice(&w, n, taken)
			if err := w.end(); err != nil {
				return 0, err
			}
			runtime.Gosched()
		}
	}
	w.begin(endFrame)
	w.frame = binary.AppendUvarint(w.frame, w.counters)
	return w.counters, cmp.Or(w.end(), w.to.Flush())
}

// appendSlice appends to the frame of w a slice of the counters, from number n on, and
// returns where the next slice begins, and whether there is one.
func (sh *shard) appendSlice(w *frameWriter, n uint32, taken strategy.Instant) (next uint32, more bool) {
	sh.lock()
	defer sh.unlock()
	for last := min(n+sliceCounters, sh.used); n < last && len(w.frame) < sliceBytes; n++ {
		if c := sh.at(n); c.position != notHeld && c.expires > taken {
			sh.appendCounter(w, n, taken)
		}
	}
	return n, n < sh.used
}

func (sh *shard) appendCounter(w *frameWriter, n uint32, taken strategy.Instant) {
	c := sh.at(n)
	group := w.group(&sh.groups[c.group])
	flags, rank := byte(0), c.rank
	if !c.isOpen() {
		flags, rank = shutRecord, rank-int64(taken)
	}
	if c.log.Load() != 0 {
		flags |= logRecord
	}
	state := c.state()
	b := append(w.frame, flags)
	b = binary.AppendUvarint(b, group)
	b = binary.LittleEndian.AppendUint64(b, c.key.hi)
	b = binary.LittleEndian.AppendUint64(b, c.key.lo)
	b = binary.AppendVarint(b, int64(state.Last-taken))
	b = binary.AppendUvarint(b, uint64(state.Part))
	b = binary.AppendUvarint(b, uint64(state.Used))
	b = binary.AppendVarint(b, int64(c.expires-taken))
	b = binary.AppendVarint(b, rank)
	if flags&logRecord != 0 {
		start := len(b)
		b = sh.log(n).Append(append(b, 0, 0, 0, 0))
		binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	}
	w.frame = b
	w.counters++
}

// group returns the number of a group, which it appends to the frame if it is new.
func (w *frameWriter) group(g *group) uint64 {
	name := groupName{g.owner, g.limit}
	number, known := w.groups[name]
	if known {
		return number
	}
	number = uint64(len(w.groups))
	w.groups[name] = number
	flags, text := byte(groupRecord), g.owner.name
	if g.owner.number == 0 {
		flags, text = flags|restRecord, ""
	}
	w.frame = append(w.frame, flags)
	w.frame = binary.LittleEndian.AppendUint64(w.frame, g.limit)
	w.frame = appendText(w.frame, text)
	return number
}

// A restoration says what read has found.
type restoration struct {
	taken             strategy.Instant
	counters, expired uint64
}

// A newerError is the error of a snapshot of a version that this program does not know.
type newerError uint32

func (v newerError) Error() string {
	return fmt.Sprintf("it is of version %d, and this program knows version %d alone: a newer one has written it", uint32(v), version)
}

var (
	errForeign = errors.New("it is no snapshot of ratelimitd")
	errTorn    = errors.New("it ends too early")
	errCorrupt = errors.New("its checksum is wrong, so it has changed since it was written")
	errNoSense = errors.New("it is not what a snapshot can be")
)

// A frameReader reads a snapshot.
type frameReader struct {
	from  *bufio.Reader
	frame []byte
	sum   uint32
}

// next reads a frame, and returns its kind and what is in it, until the next call.
func (r *frameReader) next() (kind byte, body fields, err error) {
	var length [4]byte
	if _, err := io.ReadFull(r.from, length[:]); err != nil {
		return 0, fields{}, torn(err)
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n == 0 || n > maxFrame {
		return 0, fields{}, errCorrupt
	}
	// It may be a wrong length: so this takes no more memory than there is in the file.
	b := bytes.NewBuffer(r.frame[:0])
	if _, err := io.CopyN(b, r.from, int64(n)+4); err != nil {
		return 0, fields{}, torn(err)
	}
	r.frame = b.Bytes()
	r.sum = crc32.Update(crc32.Update(r.sum, castagnoli, length[:]), castagnoli, r.frame[:n])
	if r.sum != binary.LittleEndian.Uint32(r.frame[n:]) {
		return 0, fields{}, errCorrupt
	}
	return r.frame[0], fields{b: r.frame[1:n]}, nil
}

func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

// read restores what write has written. Nobody uses s yet. After an error, some of it is
// in s.
func (s *stripes) read(from io.Reader) (found restoration, err error) {
	r := frameReader{from: bufio.NewReaderSize(from, sliceBytes)}
	var start [len(magic) + 4]byte
	if _, err := io.ReadFull(r.from, start[:]); err != nil || string(start[:len(magic)]) != magic {
		if torn := torn(err); err != nil && !errors.Is(torn, errTorn) {
			return found, err
		}
		return found, errForeign
	}
	if v := binary.LittleEndian.Uint32(start[len(magic):]); v != version {
		return found, newerError(v)
	}
	kind, body, err := r.next()
	if err != nil {
		return found, err
	}
	if kind != headFrame {
		return found, errNoSense
	}
	if found.taken, err = s.readHead(body); err != nil {
		return found, err
	}
	in := insertion{store: s, now: s.now(), restoration: found}
	in.ahead = max(0, found.taken-in.now)
	for {
		switch kind, body, err = r.next(); {
		case err != nil:
			return found, err
		case kind == counterFrame:
			if err := in.records(body); err != nil {
				return found, err
			}
		case kind == endFrame:
			n := body.uvarint()
			if _, err := r.from.ReadByte(); body.more() || !body.ok() || n != in.counters+in.expired || !errors.Is(err, io.EOF) {
				return found, errNoSense
			}
			return in.restoration, nil
		default:
			return found, errNoSense
		}
	}
}

func (s *stripes) readHead(body fields) (taken strategy.Instant, err error) {
	taken = strategy.Instant(body.fixed())
	secret := body.take(uint64(secretBytes))
	if !body.ok() || taken < -maxInstant || taken > maxInstant {
		return 0, errNoSense
	}
	if s.hash, err = parseHasher(secret); err != nil {
		return 0, err
	}
	s.agreement.values = map[string][]byte{}
	for body.more() {
		name, value := body.text(), body.text()
		if !body.ok() {
			return 0, errNoSense
		}
		s.agreement.values[string(name)] = bytes.Clone(value)
	}
	return taken, nil
}

// An insertion puts the counters of a snapshot into a store.
type insertion struct {
	restoration

	store *stripes
	now   strategy.Instant
	// ahead is how far the clock was ahead of now when the snapshot was taken. What expires
	// does so as long after now as it was to, though the clock has stepped back: so
	// a clock that was wrong keeps no memory for long. The states are settled when
	// they are used, as those of any store.
	ahead  strategy.Instant
	groups []groupOwner
}

// A groupOwner is a group of a snapshot.
type groupOwner struct {
	name  string
	rest  bool
	limit uint64
}

// records inserts what is in a counterFrame.
func (in *insertion) records(body fields) error {
	for body.more() {
		flags := body.byte()
		switch {
		case flags&^recordFlags != 0:
			return errNoSense
		case flags&groupRecord != 0:
			limit := body.fixed()
			name := body.text()
			in.groups = append(in.groups, groupOwner{string(name), flags&restRecord != 0, limit})
		default:
			if err := in.counter(flags, &body); err != nil {
				return err
			}
		}
		if !body.ok() {
			return errNoSense
		}
	}
	return nil
}

func (in *insertion) counter(flags byte, body *fields) error {
	number := body.uvarint()
	c := counter{key: key{body.fixed(), body.fixed()}}
	last, part, used := in.taken+strategy.Instant(body.varint()), body.uvarint(), body.uvarint()
	c.expires, c.rank = in.taken+strategy.Instant(body.varint())-in.ahead, body.varint()
	var log *strategy.Log
	if flags&logRecord != 0 {
		log = new(strategy.Log)
		if err := log.Parse(body.take(uint64(body.fixed32()))); err != nil {
			return errNoSense
		}
	}
	shut := flags&shutRecord != 0
	if shut {
		c.rank += int64(in.taken - in.ahead)
	}
	switch {
	case !body.ok() || number >= uint64(len(in.groups)) || part >= 1<<partBits || used > strategy.MaxUnits,
		last < -maxInstant || last > maxInstant || c.expires < -maxInstant || c.expires > maxInstant,
		c.rank < -maxInstant || c.rank > maxInstant || !shut && (c.rank < 0 || c.rank > maxShare):
		return errNoSense
	case c.expires <= in.now:
		in.expired++
		return nil
	}
	in.counters++
	c.setState(&strategy.State{Last: last, Part: int64(part), Used: int64(used)})
	in.store.insert(&c, &in.groups[number], log, shut, in.now)
	return nil
}

// insert adds a counter of a snapshot, and evicts others if there is no room.
func (s *stripes) insert(c *counter, of *groupOwner, log *strategy.Log, shut bool, now strategy.Instant) {
	sh := &s.shards[c.key.hi>>s.shift]
	sh.lock()
	if n, found := sh.find(c.key); found {
		sh.remove(n) // it was dropped and came back while the snapshot was taken; what comes later is newer
	}
	owner := s.names.rest
	if !of.rest {
		owner = s.names.find(of.name)
	}
	g := sh.join(owner, of.limit, log != nil)
	sh.makeRoom(g, nil, push{owner, now})
	n := sh.insert(c.key, g)
	state := c.state()
	sh.at(n).setState(&state)
	sh.at(n).expires = c.expires
	if log != nil {
		*sh.log(n) = *log
		sh.grow(g, log.Size())
	}
	if shut {
		sh.rankShut(n, strategy.Instant(c.rank))
	} else {
		sh.rankOpen(n, c.rank)
	}
	sh.unlock()
	if s.logEntries.Load() > s.maxLogEntries {
		s.evictLogs(s.maxLogEntries, push{s.names.find(of.name), now})
	}
}

// clear forgets all that s knows, and takes other secrets. Nobody uses s.
func (s *stripes) clear() {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.lock()
		for n := range sh.used {
			if sh.at(n).position != notHeld {
				sh.remove(n)
			}
		}
		sh.unlock()
	}
	s.agreement.values = nil
	s.hash = newHasher()
}
