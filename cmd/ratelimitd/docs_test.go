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
