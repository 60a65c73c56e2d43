//go:build unix

package netlimit

import "syscall"

// maxDescriptors returns how many file descriptors the process may have. Go has
// raised the soft limit to the hard limit by then.
func maxDescriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<30 {
		return 1 << 30
	}
	return int(limit.Cur)
}
