package memcached

import "testing"

// FuzzReplyScanner reads replies at once and in pieces: the scanner finds the same in
// both, and lets no value pass that is larger than it may be.
func FuzzReplyScanner(f *testing.F) {
	for _, seed := range []string{"END\r\n", "VALUE k 0 3 1\r\nabc\r\nEND\r\n", "VALUE k 0 4294967295 1\r\nx", "VALUE k\r\n", "VALUE k 0 -1 1\r\n", "SERVER_ERROR x\r\n"} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		size = max(size, 1)
		var whole, pieces replyScanner
		wholeErr := whole.scan(data)
		var err error
		for rest := data; len(rest) > 0 && err == nil; {
			n := min(int(size), len(rest))
			err = pieces.scan(rest[:n])
			rest = rest[n:]
		}
		if (wholeErr == nil) != (err == nil) {
			t.Fatalf("at once %v, in pieces of %d bytes %v", wholeErr, size, err)
		}
		if err == nil && (whole.skip != pieces.skip || whole.total != pieces.total || string(whole.line) != string(pieces.line)) {
			t.Fatalf("at once %+v, in pieces %+v", whole, pieces)
		}
		if whole.skip > maxValueBytes+2 || len(whole.line) > maxLineBytes {
			t.Fatalf("%+v", whole)
		}
	})
}
