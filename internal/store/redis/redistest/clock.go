package redistest

import (
	_ "embed"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

//go:embed clock.c
var clockSource []byte

// SetClock has the wall clock of the server be ahead of the machine's from its next start on,
// and returns what sets how far, while it runs too.
func (s *Server) SetClock(tb testing.TB) (ahead func(time.Duration)) {
	tb.Helper()
	dir := tb.TempDir()
	source, library, file := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so"), filepath.Join(dir, "ahead")
	if err := os.WriteFile(source, clockSource, 0o600); err != nil {
		tb.Fatal(err)
	}
	if text, err := exec.Command("cc", "-shared", "-fPIC", "-O1", "-o", library, source).CombinedOutput(); err != nil {
		tb.Fatalf("compile %s: %v\n%s", source, err, text)
	}
	f, err := os.Create(file)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.Close() })
	ahead = func(d time.Duration) {
		tb.Helper()
		if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(d.Microseconds())), 0); err != nil { //nolint:gosec // the library reads it as a signed number
			tb.Fatal(err)
		}
	}
	ahead(0)
	s.env = []string{"LD_PRELOAD=" + library, "CLOCK_FILE=" + file}
	return ahead
}
