// Package textfile reads the files that an operator gives the daemon: those of the
// configuration, of its clients and of TLS. They change while it runs, and what is in their
// place then may be anything.
package textfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// MaxPEM is how long a file of certificates or of a key may be: that of all authorities that
// systems usually trust has 220 KB.
const MaxPEM = 4 << 20

// A LengthError says that a file is longer than it may be.
type LengthError struct {
	name string
	most int64
}

// Error implements error.
func (e *LengthError) Error() string {
	return fmt.Sprintf("%s: the file has more than %d bytes", e.name, e.most)
}

// patience is how long whoever writes to a pipe may take.
const patience = 5 * time.Second

// Read reads a file of at most most bytes. It refuses a longer one before it reads it, if
// the system says how long it is. It waits for nobody but for whoever writes to a pipe, and
// for that not long: the daemon must neither hang nor run out of memory when somebody puts a
// pipe or a device in the place of a file.
func Read(name string, most int64) ([]byte, error) {
	// Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Size() > most {
		return nil, &LengthError{name, most}
	}
	isPipe := info.Mode()&fs.ModeNamedPipe != 0
	latest := time.Now().Add(patience)
	_ = f.SetReadDeadline(latest) // of a pipe; files have none
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	for err == nil && len(data) == 0 && isPipe && time.Now().Before(latest) {
		time.Sleep(10 * time.Millisecond) // nobody writes to it yet
		data, err = io.ReadAll(io.LimitReader(f, most+1))
	}
	switch {
	case isPipe && len(data) == 0 && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)):
		return nil, fmt.Errorf("%s: nobody writes to this pipe within %s; give a file", name, patience)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("%s: nobody has written all of it to this pipe within %s; give a file", name, patience)
	case err != nil:
		return nil, err
	case int64(len(data)) > most:
		return nil, &LengthError{name, most}
	}
	return data, nil
}
