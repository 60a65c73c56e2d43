package config

import (
	"errors"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/textfile"
)

const (
	// maxFileBytes is how large a file may be: that of some 100,000 policies. The
	// daemon takes about 30 times as much memory to read it.
	maxFileBytes = 16 << 20
	// maxDirBytes and maxDirFiles are for all files of --envoy-config-dir together.
	maxDirBytes = 64 << 20
	maxDirFiles = 10_000
)

// readBounded reads a file of at most most bytes.
func readBounded(name string, most int64) ([]byte, error) {
	data, err := textfile.Read(name, most)
	if _, isLong := errors.AsType[*textfile.LengthError](err); isLong {
		return nil, fmt.Errorf("%w; write fewer policies, or split it", err)
	}
	return data, err
}
