package reload

import (
	"errors"
	"os"
	"syscall"
)

// Writing returns the first of the files that somebody has open for writing, or "".
// It cannot tell of files that belong to another user, unless the process may do
// anything.
func Writing(names ...string) string {
	for _, name := range names {
		if isWritten(name) {
			return name
		}
	}
	return ""
}

// isWritten asks for a read lease, which the system grants only if nobody has the file
// open for writing, and gives it back.
func isWritten(name string) bool {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names it
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // which gives a lease back too
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	written := false
	_ = raw.Control(func(fd uintptr) {
		_, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETLEASE, syscall.F_RDLCK)
		written = errors.Is(errno, syscall.EAGAIN)
		if errno == 0 {
			_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETLEASE, syscall.F_UNLCK)
		}
	})
	return written
}
