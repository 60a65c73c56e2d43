package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A terminal is a pair of files: what is written to one is read from the other.
type terminal struct {
	t               *testing.T
	person, program *os.File
}

// newTerminal returns a terminal of 24 lines of 80 characters.
func newTerminal(t *testing.T) *terminal {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = person.Close() })
	var number int
	raw, err := person.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	failed := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if err == nil {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
		}
	})
	if failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return &terminal{t, person, program}
}

// modes returns how the terminal works, as a shell sets it.
func (m *terminal) modes() unix.Termios {
	m.t.Helper()
	raw, err := m.person.SyscallConn()
	if err != nil {
		m.t.Fatal(err)
	}
	var modes *unix.Termios
	failed := raw.Control(func(fd uintptr) { modes, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	if failed != nil || err != nil {
		m.t.Fatal(failed, err)
	}
	return *modes
}

// shown reads what the program writes until it has text, and returns all of it.
func (m *terminal) shown(text string) string {
	m.t.Helper()
	var all bytes.Buffer
	buffer := make([]byte, 4096)
	for !strings.Contains(all.String(), text) {
		n, err := m.person.Read(buffer)
		all.Write(buffer[:n])
		if err != nil {
			m.t.Fatalf("%v; it does not show %q: %q", err, text, all.String())
		}
	}
	return all.String()
}

// resize gives the terminal another size, and tells the program.
func (m *terminal) resize(rows, columns uint16) {
	m.t.Helper()
	raw, err := m.person.SyscallConn()
	if err != nil {
		m.t.Fatal(err)
	}
	failed := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	if failed != nil || err != nil {
		m.t.Fatal(failed, err)
	}
}

// frame returns the next whole screen that the program draws.
func (m *terminal) frame() string {
	m.t.Helper()
	const begin = "\x1b[H\x1b[J"
	all := m.shown(begin)
	for strings.Count(all, begin) < 2 {
		all += m.shown(begin)
	}
	return strings.Split(all, begin)[1]
}

// fits reports whether a screen has some lines of limits, and no more than there is room for.
func (m *terminal) fits(frame string, rows, columns int) bool {
	lines := strings.Split(frame, "\r\n")
	for _, l := range lines {
		l = strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "").Replace(l)
		if utf8.RuneCountInString(l) > columns {
			return false
		}
	}
	return len(lines) <= rows && strings.Contains(frame, "checkout  mall")
}

// TestTop watches a daemon on a terminal. However it ends, the terminal is as it was.
func TestTop(t *testing.T) {
	at, _ := servesAt(t, nil)
	client := clientOf(t, at)
	for name, end := range map[string]func(m *terminal, pid int) error{
		"q":       func(m *terminal, _ int) error { _, err := m.person.WriteString("xq"); return err },
		"Ctrl-C":  func(m *terminal, _ int) error { _, err := m.person.WriteString("\x03"); return err },
		"SIGTERM": func(_ *terminal, pid int) error { return syscall.Kill(pid, syscall.SIGTERM) },
		"SIGHUP":  func(_ *terminal, pid int) error { return syscall.Kill(pid, syscall.SIGHUP) },
	} {
		for range 30 { // who asked long ago is not shown
			if _, err := client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: "mallory", Limits: []*ratelimitv1.Limit{{Rate: "10/366d"}}}); err != nil {
				t.Fatal(err)
			}
		}
		m := newTerminal(t)
		before := m.modes()
		cmd := process(t, nil, "top", "--admin-addr", at.Admin, "--interval=100ms")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = m.program, m.program, m.program
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = m.program.Close() // so that reading ends when the process does
		screen := m.shown("fixed_window:10/366d")
		if !strings.Contains(screen, "checkout  mallory") || !strings.Contains(screen, "q quits") {
			t.Errorf("%s: it shows %q", name, screen)
		}
		m.resize(10, 40)
		for !m.fits(m.frame(), 10, 40) { // until the last of the old size has been read
		}
		if m.modes() == before {
			t.Errorf("%s: the terminal reads lines", name)
		}
		if err := end(m, cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		m.shown("\x1b[?1049l")
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if m.modes() != before {
			t.Errorf("%s: the terminal is not as it was", name)
		}
	}
}
