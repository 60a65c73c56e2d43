package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

func none(string) (string, bool) { return "", false }

// TestLargeFiles has files that are larger than they may be, and one that never ends.
func TestLargeFiles(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 1<<40); err != nil { // it takes no room
		t.Fatal(err)
	}
	for _, name := range []string{large, "/dev/zero"} {
		start := time.Now()
		_, _, err := Read(flags.Source{"config": {Text: name, Name: "--config"}}, none)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%s: the file has more than %d bytes", name, maxFileBytes)) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: refused after %v", name, took)
		}
	}
	if _, _, err := Read(flags.Source{"envoy-config-dir": {Text: dir, Name: "--envoy-config-dir"}}, none); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a directory with it: %v", err)
	}

	many := t.TempDir()
	for i := range maxDirBytes/maxFileBytes + 1 {
		name := filepath.Join(many, fmt.Sprint(i, ".yaml"))
		if err := os.WriteFile(name, []byte("domain: d"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, maxFileBytes); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Read(flags.Source{"envoy-config-dir": {Text: many, Name: "--envoy-config-dir"}}, none); err == nil || !strings.Contains(err.Error(), fmt.Sprint("more than ", maxDirBytes, " bytes")) {
		t.Errorf("a directory of large files: %.300v", err)
	}
}

// TestPipe reads a file that is a pipe, as a shell makes them.
func TestPipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { _ = os.WriteFile(name, []byte("namespaces: {checkout: {}}"), 0o600) }()
	_, p, err := Read(flags.Source{"config": {Text: name, Name: "--config"}}, none)
	if err != nil || p.Namespaces.Namespace("checkout") == nil {
		t.Error(err)
	}
}
