package redistest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// StartTwemproxy starts a twemproxy that spreads keys over servers, and stops it when
// the test ends. It returns its address. With tags, only what is in braces decides where
// a key is.
func StartTwemproxy(tb testing.TB, tags bool, servers ...*Server) (addr string) {
	tb.Helper()
	program, err := exec.LookPath("nutcracker")
	if err != nil {
		tb.Fatal("this test needs the program nutcracker, which is not installed: run scripts/install-test-deps.sh, or apt-get install nutcracker")
	}
	addr = net.JoinHostPort("127.0.0.1", freePort(tb))
	var config strings.Builder
	fmt.Fprintf(&config, "counters:\n  listen: %s\n  redis: true\n  hash: murmur\n  distribution: ketama\n", addr)
	if tags {
		config.WriteString("  hash_tag: \"{}\"\n")
	}
	config.WriteString("  servers:\n")
	for _, s := range servers {
		fmt.Fprintf(&config, "   - %s:1\n", s.Addr)
	}
	file := filepath.Join(tb.TempDir(), "nutcracker.yml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		tb.Fatal(err)
	}
	var output bytes.Buffer
	cmd := exec.Command(program, "--conf-file", file, "--stats-addr", "127.0.0.1", "--stats-port", freePort(tb))
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("nutcracker: %s", &output)
		}
	})
	Eventually(tb, "twemproxy listens", func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return addr
}
