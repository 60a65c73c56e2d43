//go:build linux

// Package cputime reads from the kernel how much processor time processes have used, in
// nanoseconds. On a shared machine, that is steadier than elapsed time.
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

// Of returns the processor time that a process has used in all of its threads, including
// those that have ended.
func Of(pid int) (time.Duration, error) {
	// This is the number of a process's clock, as in clock_getcpuclockid(3).
	const scheduler = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &ts); err != nil {
		return 0, fmt.Errorf("the processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Stolen returns how much processor time the host of this virtual machine has taken from
// it since it started, and how much processor time there was in total. On a machine
// that is not virtual, nothing is stolen.
func Stolen() (stolen, all uint64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	// These are user, nice, system, idle, iowait, irq, softirq and steal (see
	// proc_stat(5)), and two that user and nice include.
	const steal, own = 7, 8
	first, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(strings.TrimPrefix(first, "cpu"))
	if len(fields) < own {
		return 0, 0, fmt.Errorf("/proc/stat: %q does not have the %d times of Linux 2.6.11 and later", first, own)
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

// Listener returns the process on this machine that listens on the TCP port.
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
		if err == nil && sockets[target] { // otherwise it has ended, or belongs to another user
			return strconv.Atoi(strings.Split(link, "/")[2])
		}
	}
	return 0, fmt.Errorf("no process that listens on port %d is visible to this one", port)
}

// listening adds the sockets that listen on port to a set, by the names that links in
// /proc have.
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
