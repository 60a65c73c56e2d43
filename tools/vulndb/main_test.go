package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestRun(t *testing.T) {
	reports, dir := t.TempDir(), t.TempDir()
	write := func(i int, text string) {
		if err := os.WriteFile(filepath.Join(reports, fmt.Sprintf("GO-2026-%04d.json", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(0, `{"id": "GO-2026-0000", "modified": "2026-01-02T00:00:00Z", "affected": [{"package": {"name": "example.org/a"}, "ranges": [{"events": [{"introduced": "0"}, {"fixed": "1.2.3"}, {"introduced": "2.0.0"}]}]}]}`)
	if run(reports, dir) == nil {
		t.Error("a folder with one report is taken")
	}
	for i := range fewest {
		write(i+1, fmt.Sprintf(`{"id": "GO-2026-%04d", "modified": "2026-01-01T00:00:00Z"}`, i+1))
	}
	if err := run(reports, dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"index/db.json":      `{"modified":"2026-01-02T00:00:00Z"}`,
		"index/modules.json": `[{"path":"example.org/a","vulns":[{"id":"GO-2026-0000","modified":"2026-01-02T00:00:00Z"}]}]`,
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %s, %v; want %s", name, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ID", "GO-2026-0500.json")); err != nil {
		t.Error(err)
	}
}
