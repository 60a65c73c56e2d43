package gctuning

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// usable is the part of a container's memory that Go may use. The rest is for what Go
// does not count: the binary, the kernel's buffers, and what it takes before it knows.
const usable = 0.9

// KeepWithinContainer makes the garbage collector work harder when the process comes
// near the memory that its cgroup allows, so that garbage does not get it killed. It
// returns the limit that it has set for Go, or 0 if it has set none: because the
// operator has set GOMEMLIMIT, or because there is no limit to the cgroup. The error
// says why a limit could not be found out.
func KeepWithinContainer() (limit int64, err error) {
	return keepWithin(memlimit.FromCgroup)
}

func keepWithin(allowed func() (uint64, error)) (limit int64, err error) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0, nil
	}
	bytes, err := allowed()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("the memory limit of the cgroup: %w", err)
	case bytes > math.MaxInt64/2: // some kernels write no limit as a very large one
		return 0, nil
	}
	limit = int64(float64(bytes) * usable)
	debug.SetMemoryLimit(limit)
	return limit, nil
}
