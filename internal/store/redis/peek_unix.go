//go:build unix

package redis

import (
	"errors"
	"io"
	"syscall"
)

var errUnasked = errors.New("the server has sent what nobody asked for")

// peek reports why an idle connection is of no use any more, or nil. It waits for
// nothing.
func peek(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, failed = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	switch {
	case err != nil:
		return err
	case errors.Is(failed, syscall.EAGAIN), errors.Is(failed, syscall.EWOULDBLOCK):
		return nil
	case failed != nil:
		return failed
	case n == 0:
		return io.EOF
	default: // with TLS, that may be how the server says goodbye
		return errUnasked
	}
}
