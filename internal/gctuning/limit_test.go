package gctuning

import (
	"errors"
	"math"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

func TestKeepWithin(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	unreadable := errors.New("unreadable")
	for _, tt := range []struct {
		name, env string
		allowed   uint64
		err       error
		want      int64
		wantErr   error
	}{
		{name: "a container of 1 GiB", allowed: 1 << 30, want: 966367641},
		{name: "the operator has decided", env: "2GiB", allowed: 1 << 30},
		{name: "no limit", err: memlimit.ErrNoLimit},
		{name: "no cgroup", err: memlimit.ErrNoCgroup},
		{name: "no Linux", err: memlimit.ErrCgroupsNotSupported},
		{name: "no limit, as cgroup v1 writes it", allowed: math.MaxInt64 - 4095},
		{name: "unreadable", err: unreadable, wantErr: unreadable},
	} {
		debug.SetMemoryLimit(before)
		t.Setenv("GOMEMLIMIT", tt.env)
		limit, err := keepWithin(func() (uint64, error) { return tt.allowed, tt.err })
		if limit != tt.want || !errors.Is(err, tt.wantErr) {
			t.Errorf("%s: %d, %v; want %d, %v", tt.name, limit, err, tt.want, tt.wantErr)
		}
		want := tt.want
		if want == 0 {
			want = before
		}
		if set := debug.SetMemoryLimit(-1); set != want {
			t.Errorf("%s: the limit is %d, want %d", tt.name, set, want)
		}
	}
}

// TestKeepWithinContainer asks the system that the test runs on, whatever that allows.
func TestKeepWithinContainer(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	t.Setenv("GOMEMLIMIT", "")
	if limit, err := KeepWithinContainer(); limit < 0 || err != nil {
		t.Errorf("%d, %v", limit, err)
	}
}
