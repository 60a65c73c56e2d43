package config

import (
	"fmt"
	"io"
	"os"
)

const (
	// maxFileBytes is how large a file may be: that of some 100,000 policies. The
	// daemon takes about 30 times as much memory to read it.
	maxFileBytes = 16 << 20
	// maxDirBytes and maxDirFiles are for all files of --envoy-config-dir together.
	maxDirBytes = 64 << 20
	maxDirFiles = 10_000
)

// readBounded reads a file of at most most bytes. It refuses a larger one before it
// reads it, if the system says how large it is.
func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var data []byte
	if info.Size() <= most {
		data, err = io.ReadAll(io.LimitReader(f, most+1)) // it may be a pipe, or grow
	}
	switch {
	case err != nil:
		return nil, err
	case info.Size() > most || int64(len(data)) > most:
		return nil, fmt.Errorf("%s: the file has more than %d bytes; write fewer policies, or split it", name, most)
	}
	return data, nil
}
