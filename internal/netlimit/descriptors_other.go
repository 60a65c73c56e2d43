//go:build !unix

package netlimit

// maxDescriptors returns how many file descriptors the process may have.
func maxDescriptors() int { return 1 << 30 }
