// Package testdaemon builds and starts the daemon that the tests of this module run.
package testdaemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/clienttest"
)

// Main runs the tests of a package with the daemon of this repository, unless the
// environment says which one to run. It returns their exit status.
func Main(m *testing.M) int {
	if os.Getenv(clienttest.BinaryVariable) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "ratelimitd")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program := filepath.Join(dir, "ratelimitd")
	_, here, _, _ := runtime.Caller(0)
	build := exec.Command("go", "build", "-o", program, "./cmd/ratelimitd")
	build.Dir = filepath.Join(filepath.Dir(here), "..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the daemon: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(clienttest.BinaryVariable, program); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// NewClient returns a client of a daemon of the test's own.
func NewClient(t testing.TB) (*clienttest.Daemon, *client.Client) {
	t.Helper()
	d := clienttest.Start(t)
	limits, err := client.New(d.Options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { limits.Close() })
	return d, limits
}
