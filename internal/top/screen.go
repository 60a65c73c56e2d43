package top

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/term"
)

const (
	// terminalName is the terminal that the process is started from.
	terminalName = "/dev/tty"

	// What a terminal is told. The program has a screen of its own, without a cursor, and
	// lines that are too long do not go on in the next.
	takeScreen     = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	giveScreen     = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	clearScreen    = "\x1b[H\x1b[J"
	titleOn        = "\x1b[1m"
	titleOff       = "\x1b[0m"
	defaultRows    = 24
	defaultColumns = 80
)

// A screen is a terminal of which each key is read as it is pressed. openScreen makes it.
// Close it, whatever happens: the shell needs the terminal as it was. The zero screen is no
// terminal: no key is pressed there.
type screen struct {
	file   *os.File
	before *term.State
	keys   chan byte // what was pressed; closed when nothing more can be read

	resized chan os.Signal // when the terminal has another size
}

// openScreen takes over a terminal.
func openScreen(name string) (*screen, error) {
	// Not standard input: with its own file the reading can be ended.
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &screen{file: f, keys: make(chan byte), resized: make(chan os.Signal, 1)}
	if err := s.control(func(fd int) (err error) { s.before, err = term.MakeRaw(fd); return err }); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprint(f, takeScreen)
	go s.read()
	return s, nil
}

// control calls do with the descriptor of the terminal. (Fd would make it one whose reads
// cannot be ended.)
func (s *screen) control(do func(fd int) error) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = do(int(fd)) }) //nolint:gosec // it is one
	if failed != nil {
		return failed
	}
	return err
}

func (s *screen) read() {
	defer close(s.keys)
	in := bufio.NewReader(s.file)
	for {
		key, err := in.ReadByte()
		if err != nil {
			return
		}
		s.keys <- key
	}
}

// close gives the terminal back as it was.
func (s *screen) close() {
	fmt.Fprint(s.file, giveScreen)
	_ = s.control(func(fd int) error { return term.Restore(fd, s.before) })
	_ = s.file.Close()
	for range s.keys { // until the reading has ended
	}
}

// size returns how many lines there are, and how many characters in each.
func (s *screen) size() (rows, columns int) {
	_ = s.control(func(fd int) (err error) { columns, rows, err = term.GetSize(fd); return err })
	if rows == 0 || columns == 0 { // as some serial lines say
		return defaultRows, defaultColumns
	}
	return rows, columns
}

// draw shows lines, in place of what is shown.
func (s *screen) draw(lines []line) error {
	var b strings.Builder
	b.WriteString(clearScreen)
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n") // a raw terminal does nothing by itself
		}
		if l.title {
			b.WriteString(titleOn + l.text + titleOff)
		} else {
			b.WriteString(l.text)
		}
	}
	_, err := s.file.WriteString(b.String())
	return err
}

// ends reports whether a key ends the program: q, or Ctrl-C, which a raw terminal makes
// no signal of.
func ends(key byte) bool { return key == 'q' || key == 'Q' || key == 3 }
