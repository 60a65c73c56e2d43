package memcached

import (
	"bufio"
	"bytes"
	"fmt"
	"testing"
	"testing/iotest"
)

// FuzzReadValues reads replies at once and byte by byte: both find the same, which is of keys that
// were asked for, and no larger than a value may be.
func FuzzReadValues(f *testing.F) {
	for _, seed := range []string{
		"END\r\n", "VALUE k 0 3 1\r\nabc\r\nEND\r\n", "VALUE k 0 4294967295 1\r\nx", "VALUE k\r\n", "VALUE k 0 -1 1\r\n", "SERVER_ERROR x\r\n",
		"VALUE l 1 0 9\r\n\r\nVALUE k 0 4 18446744073709551615\r\nEND\n\r\nEND\r\n", "VALUE k 0 4194305 1\r\n",
		"VALUE k 0 1 1\r\na\r\nVALUE k 0 1 1\r\nb\r\nVALUE k 0 1 1\r\nc\r\nEND\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		at := func(r *bufio.Reader) (found []found, err error) {
			a := newRead("k")
			a.add("l")
			a.add("k")
			c := conn{replies: r}
			c.compose([]*ask{a})
			err = c.readValues()
			return a.found, err
		}
		found, err := at(bufio.NewReaderSize(bytes.NewReader(data), maxLineBytes))
		same, sameErr := at(bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(data)), maxLineBytes))
		if fmt.Sprint(found, err) != fmt.Sprint(same, sameErr) {
			t.Fatalf("at once %v, %v; byte by byte %v, %v", found, err, same, sameErr)
		}
		for _, one := range found {
			if len(one.value) > min(maxValueBytes, len(data)) || one.there != (one.value != nil) {
				t.Fatalf("%+v", one)
			}
		}
	})
}
