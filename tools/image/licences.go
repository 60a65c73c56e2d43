package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// licenceDir is where the image has the texts of the licences, by module.
const licenceDir = "usr/share/licenses/ratelimitd"

// licenceFile is the name of a file that goes with each copy.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|copyright)([.-].*)?$`)

// licences adds the texts of the licences of all that is linked into p.
func (p program) licences(source string, to *tree) error {
	cmd := exec.Command("go", "list", "-deps", "-tags="+p.tags, "-json=Dir,Module,Standard", "./cmd/ratelimitd") //nolint:gosec,noctx // the tags of our own program
	cmd.Dir, cmd.Stderr = source, os.Stderr
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+p.arch, "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	found := map[string]bool{} // by module
	for packages := json.NewDecoder(bytes.NewReader(text)); ; {
		var pkg struct {
			Dir      string
			Standard bool
			Module   *struct{ Path, Dir string }
		}
		if err := packages.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		module, root := "go", "" // the standard library
		if pkg.Module != nil {
			module, root = pkg.Module.Path, pkg.Module.Dir
		} else if at := strings.LastIndex(pkg.Dir, string(filepath.Separator)+"src"+string(filepath.Separator)); at >= 0 {
			root = pkg.Dir[:at]
		}
		// From the package up to its module: a module may have code of others.
		for dir := pkg.Dir; strings.HasPrefix(dir, root); dir = filepath.Dir(dir) {
			n, err := addLicences(to, dir, path.Join(licenceDir, module, strings.TrimPrefix(filepath.ToSlash(dir), filepath.ToSlash(root))))
			if err != nil {
				return err
			}
			found[module] = found[module] || n > 0
			if dir == root {
				break
			}
		}
	}
	for module, ok := range found {
		if !ok {
			err = errors.Join(err, fmt.Errorf("module %s has no file with a licence", module))
		}
	}
	return err
}

// addLicences adds the licences in a directory, and returns how many there are.
func addLicences(to *tree, dir, as string) (n int, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		if !f.Type().IsRegular() || !licenceFile.MatchString(f.Name()) || strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return 0, err
		}
		to.file(path.Join(as, f.Name()), text, 0o644)
		n++
	}
	return n, nil
}
