// Command licenses checks that everything in some bills of materials may be used and passed
// on under the terms of this project:
//
//	licenses SBOM...
//
// An SBOM is a CycloneDX file with the license of each component.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// permitted are the licenses that ask for no more than a notice.
var permitted = map[string]bool{
	"Apache-2.0": true, "MIT": true, "ISC": true, "0BSD": true,
	"BSD-2-Clause": true, "BSD-3-Clause": true, "BSD-Source-Code": true, "PSF-2.0": true,
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: licenses SBOM...")
		os.Exit(2)
	}
	for _, name := range os.Args[1:] {
		n, err := check(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Printf("%s: %d components have a license that is permitted\n", filepath.Base(name), n)
	}
}

// A component is something that a program is made of.
type component struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Licenses []license `json:"licenses"`
	Evidence struct {
		Licenses []license `json:"licenses"`
	} `json:"evidence"`
}

type license struct {
	License struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"license"`
}

// check returns how many components there are. The error has a line for each whose
// license is not permitted, or not known.
func check(name string) (components int, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	var sbom struct {
		Components []component `json:"components"`
	}
	if err := json.Unmarshal(text, &sbom); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if len(sbom.Components) == 0 {
		return 0, fmt.Errorf("%s has no components; make it with \"make sbom\"", name)
	}
	for _, c := range sbom.Components {
		all := append(c.Licenses, c.Evidence.Licenses...)
		if len(all) == 0 {
			err = errors.Join(err, fmt.Errorf("%s %s: no license is found; read its sources", c.Name, c.Version))
		}
		for _, l := range all {
			if !permitted[l.License.ID] {
				err = errors.Join(err, fmt.Errorf("%s %s: its license %q is not among those that tools/licenses permits", c.Name, c.Version, l.License.ID+l.License.Name))
			}
		}
	}
	return len(sbom.Components), err
}
