// Package soak runs daemons for a long time under all that a day brings, and looks
// whether they stay as they were: memory, file descriptors, goroutines, and exact counts.
//
// It has tests alone. "go test" runs for some seconds, and "make soak" for 20 minutes. Two
// daemons share a Redis, which is killed and started again, and whose clock steps; one has memcached, which
// is restarted; one counts in memory, keeps its counters in a snapshot and is restarted itself.
// Meanwhile callers ask in every way, connections come and go, and the configuration is
// reloaded.
package soak
