package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// TestSecurityDocs runs the examples of docs/security.md.
func TestSecurityDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "ratelimitd"), fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asMain, os.Args[0]))
	if err := os.Chmod(filepath.Join(dir, "ratelimitd"), 0o700); err != nil { //nolint:gosec // it is a program
		t.Fatal(err)
	}
	var d *loggedDaemon
	ran := 0
	for _, block := range shellBlock.FindAllStringSubmatch(string(page), -1) {
		text := block[1]
		if flags, isServe := strings.CutPrefix(text, "ratelimitd serve "); isServe {
			words := strings.Fields(flags)
			for i, word := range words {
				if _, err := os.Stat(filepath.Join(dir, word)); err == nil {
					words[i] = filepath.Join(dir, word)
				}
			}
			d = servesLogged(t, words...)
			continue
		}
		env := append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		if d != nil {
			env = append(env, "RATELIMITD_ADDR="+d.GRPC)
			text = strings.ReplaceAll(text, "localhost:8080", strings.Replace(d.HTTP, "127.0.0.1", "localhost", 1))
		}
		text = regexp.MustCompile(`(?m)^grpcurl.*$`).ReplaceAllString(text, "") // which is not among what the tests need
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", strings.ReplaceAll(text, "curl ", "curl --fail --silent --show-error "))
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s\n%v: %s", text, err, out)
		}
		if strings.Contains(text, "refused") && (strings.Count(string(out), ": refused") != 2 || !strings.Contains(string(out), "PermissionDenied")) {
			t.Errorf("%s\nsays %s", text, out)
		}
		ran++
	}
	if ran < 5 {
		t.Errorf("only %d examples are there", ran)
	}
}

var (
	testsOf  = regexp.MustCompile("`((?:internal|cmd)/[a-z/]+)` ((?:`Test[A-Za-z/]+`(?:, )?)+)")
	testName = regexp.MustCompile("`(Test[A-Za-z]+)(?:/([A-Za-z]+))?`")
)

// TestGuaranteesAreShown looks for every test that docs/guarantees.md names, and for a test
// in each of its rows.
func TestGuaranteesAreShown(t *testing.T) {
	page, err := os.ReadFile("../../docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	found, sources := 0, map[string]string{}
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.Contains(line, "| shown by |") {
			continue
		}
		named := 0
		for _, in := range testsOf.FindAllStringSubmatch(line, -1) {
			if sources[in[1]] == "" {
				sources[in[1]] = testSources(t, in[1])
			}
			for _, name := range testName.FindAllStringSubmatch(in[2], -1) {
				named++
				if !strings.Contains(sources[in[1]], "func "+name[1]+"(t *testing.T)") || !strings.Contains(sources[in[1]], `{"`+name[2]) {
					t.Errorf("%s has no test %s", in[1], name[0])
				}
			}
		}
		if all := strings.Count(line, "`Test"); all != named || all == 0 && !strings.HasSuffix(line, "| not shown |\n") {
			t.Errorf("%d of %d tests are understood in the line %s", named, all, line)
		}
		found += named
	}
	if found < 30 {
		t.Errorf("only %d tests are named", found)
	}
}

// testSources returns the text of all tests of a package, with those that all stores pass.
func testSources(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	for _, pattern := range []string{dir + "/*_test.go", "internal/store/storetest/*.go"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil || files == nil {
			t.Fatalf("%s: %v, no files", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(data)
		}
	}
	return text.String()
}
