package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	const good = `{"name": "a", "version": "v1", "evidence": {"licenses": [{"license": {"id": "MIT"}}]}}`
	for _, tt := range []struct{ sbom, wrong string }{
		{`{"components": [` + good + `]}`, ""},
		{`{"components": [` + good + `, {"name": "b", "version": "v2", "licenses": [{"license": {"id": "AGPL-3.0"}}]}]}`, `b v2: its license "AGPL-3.0" is not among`},
		{`{"components": [{"name": "c", "licenses": [{"license": {"name": "Our own"}}]}]}`, `its license "Our own"`},
		{`{"components": [{"name": "d", "version": "v3"}]}`, "d v3: no license is found"},
		{`{}`, "has no components"},
		{`[`, "unexpected end"},
	} {
		name := filepath.Join(t.TempDir(), "sbom.json")
		if err := os.WriteFile(name, []byte(tt.sbom), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := check(name)
		if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: %v, want %q", tt.sbom, err, tt.wrong)
		}
	}
}
