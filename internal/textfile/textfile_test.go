package textfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/textfile"
)

func TestRead(t *testing.T) {
	const most = 1000
	dir := t.TempDir()
	name := func(of string) string { return filepath.Join(dir, of) }
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(name(file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("text", "a: b\n")
	write("empty", "")
	write("longest", strings.Repeat("x", most))
	write("long", strings.Repeat("x", most+1))
	for file, to := range map[string]string{"link": "text", "nowhere": "nothing", "circle": "circle", "zeros": "/dev/zero"} {
		if err := os.Symlink(to, name(file)); err != nil {
			t.Fatal(err)
		}
	}
	for _, pipe := range []string{"pipe", "full pipe"} {
		if err := syscall.Mkfifo(name(pipe), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full, err := os.OpenFile(name("full pipe"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if _, err := full.WriteString(strings.Repeat("y", most+1)); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{ // bytes, or an error
		"text": "5", "empty": "0", "longest": "1000", "link": "5",
		"long": "more than 1000 bytes", "zeros": "more than 1000 bytes", "full pipe": "more than 1000 bytes",
		"pipe": "nobody writes to this pipe", "nothing": "no such file", "nowhere": "no such file", "circle": "too many levels", ".": "is a directory",
	} {
		data, err := textfile.Read(name(file), most)
		switch {
		case err != nil && (!strings.Contains(err.Error(), want) || data != nil):
			t.Errorf("%s: %v, want %s", file, err, want)
		case err == nil && len(data) != map[string]int{"0": 0, "5": 5, "1000": most}[want]:
			t.Errorf("%s: %d bytes, want %s", file, len(data), want)
		}
		if _, isLong := errors.AsType[*textfile.LengthError](err); isLong != (want == "more than 1000 bytes") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestPipe reads what somebody writes to a pipe, as "--config <(...)" in a shell does.
func TestPipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { _ = os.WriteFile(name, []byte("a: b\n"), 0o600) }() // it waits for a reader
	if data, err := textfile.Read(name, 100); err != nil || string(data) != "a: b\n" {
		t.Errorf("%q, %v", data, err)
	}
}
