// Command vulndb makes a vulnerability database of Go for govulncheck, out of the
// reports in the module golang.org/x/vulndb:
//
//	vulndb REPORTS DIR
//
// REPORTS is the folder data/osv of that module. The database in DIR is of the form that
// https://go.dev/doc/security/vuln/database describes. So govulncheck needs nothing but
// the Go module proxy, which every build needs.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: vulndb REPORTS DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "vulndb:", err)
		os.Exit(1)
	}
}

// A report is what the index needs of a report in the OSV format.
type report struct {
	ID       string           `json:"id"`
	Modified string           `json:"modified"`
	Affected []affectedModule `json:"affected"`
}

// An affectedModule is a module with a vulnerability.
type affectedModule struct {
	Module struct {
		Name string `json:"name"`
	} `json:"package"`
	Ranges []struct {
		Events []struct {
			Fixed string `json:"fixed"`
		} `json:"events"`
	} `json:"ranges"`
}

// fixed returns the version in which the last range ends, "" if that has no end.
func (a *affectedModule) fixed() (version string) {
	for _, r := range a.Ranges {
		for _, e := range r.Events {
			version = e.Fixed
		}
	}
	return version
}

// A module is an element of index/modules.json.
type module struct {
	Path  string `json:"path"`
	Vulns []vuln `json:"vulns"`
}

// A vuln is a vulnerability of a module.
type vuln struct {
	ID       string `json:"id"`
	Modified string `json:"modified"`
	Fixed    string `json:"fixed,omitempty"`
}

// fewest is how many reports there are at least. With fewer, the folder is not the one
// that was meant, and govulncheck would find nothing.
const fewest = 1000

func run(reports, dir string) error {
	names, err := filepath.Glob(filepath.Join(reports, "GO-*.json"))
	if err != nil {
		return err
	}
	if len(names) < fewest {
		return fmt.Errorf("%s has %d reports, and there are more than %d; give the folder data/osv of the module golang.org/x/vulndb", reports, len(names), fewest)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "ID"), 0o755), os.MkdirAll(filepath.Join(dir, "index"), 0o755)); err != nil {
		return err
	}
	var latest string
	var modules []*module
	known := map[string]*module{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var r report
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ID", r.ID+".json"), text, 0o644); err != nil {
			return err
		}
		latest = max(latest, r.Modified)
		for i := range r.Affected {
			a := &r.Affected[i]
			m := known[a.Module.Name]
			if m == nil {
				m = &module{Path: a.Module.Name}
				known[m.Path] = m
				modules = append(modules, m)
			}
			m.Vulns = append(m.Vulns, vuln{ID: r.ID, Modified: r.Modified, Fixed: a.fixed()})
		}
	}
	return errors.Join(
		writeJSON(filepath.Join(dir, "index", "modules.json"), modules),
		writeJSON(filepath.Join(dir, "index", "db.json"), map[string]string{"modified": latest}),
	)
}

func writeJSON(name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}
