//go:build linux

// Package cputime reads how much processor time processes have used, by the
// kernel's own accounting, in nanoseconds. On a shared machine that is steadier
// than any time on the wall.
package cputime

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Of returns the time that the process has used, in all of its threads, those
// that ended too.
func Of(pid int) (time.Duration, error) {
	// A process's clock, as clock_getcpuclockid(3) makes it: the scheduler's.
	const scheduler = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &ts); err != nil {
		return 0, fmt.Errorf("the processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Stolen returns how much processor time the machine's host has kept from it
// since it started, and how much there was of all kinds. On a machine that is
// nobody's guest nothing is stolen.
func Stolen() (stolen, all uint64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, and
	// two that user and nice have already.
	const steal, own = 7, 8
	first, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(strings.TrimPrefix(first, "cpu"))
	if len(fields) < own {
		return 0, 0, fmt.Errorf("/proc/stat: %q has not the %d times of Linux 2.6.11 and later", first, own)
	}
	for i, field := range fields[:own] {
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		all += ticks
		if i == steal {
			stolen = ticks
		}
	}
	return stolen, all, nil
}

// Listener returns the process of this machine that listens on the TCP port.
func Listener(port int) (int, error) {
	sockets := make(map[string]bool)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if err := listening(table, port, sockets); err != nil && !os.IsNotExist(err) {
			return 0, err
		}
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err == nil && sockets[target] { // else it is gone, or not ours to see
			return strconv.Atoi(strings.Split(link, "/")[2])
		}
	}
	return 0, fmt.Errorf("no process that listens on port %d can be seen here", port)
}

// listening adds the sockets that listen on port, as links in /proc name them.
func listening(table string, port int, sockets map[string]bool) error {
	f, err := os.Open(table)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	const listen = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], suffix) && fields[3] == listen {
			sockets["socket:["+fields[9]+"]"] = true
		}
	}
	return lines.Err()
}
