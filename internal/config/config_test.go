package config_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/flags"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// read reads a Config with a command line, which sets flags to values, and an
// environment.
func read(line, env map[string]string) (*config.Config, *config.Policies, error) {
	source := flags.Source{}
	for flag, text := range line {
		source[flag] = flags.Setting{Text: text, Name: "--" + flag}
	}
	return config.Read(source, func(name string) (string, bool) { value, ok := env[name]; return value, ok })
}

// TestSources sets one flag in each source, from the last to the first.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "c.yaml"), "http_addr: :3\nnamespaces: {}\n")
	if err := os.MkdirAll(filepath.Join(dir, "config"), 0o700); err != nil {
		t.Fatal(err)
	}
	line, env := map[string]string{}, map[string]string{}
	addr := func() string {
		c, _, err := read(line, env)
		if err != nil {
			t.Error(err)
		}
		return c.HTTPAddr
	}
	for _, step := range []struct {
		set  func()
		want string
	}{
		{func() {}, ":8080"},
		{func() { env["PORT"] = "4" }, ":8080"}, // not without RUNTIME_ROOT
		{func() { env["RUNTIME_ROOT"] = dir }, ":4"},
		{func() { env["RATELIMITD_CONFIG"] = file }, ":3"},
		{func() { env["RATELIMITD_HTTP_ADDR"] = ":2" }, ":2"},
		{func() { line["http-addr"] = ":1" }, ":1"},
	} {
		step.set()
		if got := addr(); got != step.want {
			t.Errorf("with %v and %v it is %s, want %s", line, env, got, step.want)
		}
	}
}

// TestNames checks that a message names the source of a setting.
func TestNames(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "config"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(root, "c.yaml"), "store_timeout: soon\nnamespaces: {}\n")
	for _, tt := range []struct {
		line, env map[string]string
		says      string
	}{
		{map[string]string{"store-timeout": "soon"}, nil, `--store-timeout "soon": write a number and its unit`},
		{nil, map[string]string{"RATELIMITD_STORE_TIMEOUT": "soon"}, `RATELIMITD_STORE_TIMEOUT "soon": write`},
		{map[string]string{"config": file}, nil, file + `:1:16: store_timeout "soon": write`},
		{map[string]string{"config": file, "store-timeout": "1s"}, nil, file + `:1:16: store_timeout "soon": write`},
		{map[string]string{"config": "/nowhere"}, nil, `--config: open /nowhere: no such file`},
		{nil, map[string]string{"RATELIMITD_CONFIG": "/nowhere"}, `RATELIMITD_CONFIG: open /nowhere: no such file`},
		{nil, map[string]string{"RUNTIME_ROOT": root, "REDIS_URL": "a:1", "REDIS_POOL_SIZE": "-1"}, `REDIS_POOL_SIZE -1: must be 0 to 10000`},
		{nil, map[string]string{"RUNTIME_ROOT": root, "GRPC_HOST": "a b"}, `GRPC_HOST and GRPC_PORT "a b:8081": the host is neither`},
		{nil, map[string]string{"RUNTIME_ROOT": "/nowhere"}, `RUNTIME_ROOT: lstat /nowhere: no such file`},
	} {
		if _, _, err := read(tt.line, tt.env); err == nil || strings.Count(err.Error(), "soon") > 2 || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v %v: %v, want %s", tt.line, tt.env, err, tt.says)
		}
	}
}

// TestNoPasswords makes each mistake that has a password beside it.
func TestNoPasswords(t *testing.T) {
	const secret = "hunter2"
	dir := t.TempDir()
	for i, text := range []string{
		"redis_password: " + secret + "\nredis_password: other\n",
		"redis_password: [" + secret + "]\n",
		"redis_password:\n  - " + secret + "\n",
		"redis_sentinel_password: " + secret + "\nstore: redis\n",
		"store: redis\nredis_url: redis://me:" + secret + "@a/x\n",
		"store: redis\nredis_url:\n  - redis://a:1\n  - rediss://me:" + secret + "@b\n",
		"store: redis\nredis_url: me:" + secret + "@a\n",
		"store: redis\nredis_url: redis://me:" + secret + "%zz@a\n",
		"store: redis\nredis_url: redis://me:" + secret + "@a\nredis_url: redis://b\n",
		"{redis_password: " + secret + ", store: mongo}\n",
	} {
		file := write(t, filepath.Join(dir, fmt.Sprint(i, ".yaml")), text)
		if _, _, err := read(map[string]string{"config": file}, nil); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, line := range []map[string]string{
		{"store": "redis", "redis-url": "redis://me:" + secret + "@a/x"},
		{"store": "redis", "redis-url": "me:" + secret + "@a"},
		{"store": "redis", "redis-sentinel-password": secret},
		{"http-addr": "http://me:" + secret + "@a"},
		{"store": "memcached", "memcached-addr": "me:" + secret + "@a"},
	} {
		if _, _, err := read(line, nil); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%v: %v", line, err)
		}
	}
	c, _, err := read(map[string]string{"redis-url": "redis://me:" + secret + "@a redis://b", "redis-password": secret, "redis-sentinel-password": secret}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if shown := c.Shown(); strings.Contains(fmt.Sprint(shown), secret) || fmt.Sprint(shown["redis-url"]) != "[redis://me:xxxxx@a redis://b]" || shown["redis-password"] != "xxxxx" || shown["store"] != "memory" {
		t.Errorf("it shows %v", shown)
	}
}

const two = `namespaces:
  checkout: {policies: {default: {limits: [{rate: 1/s}]}, search: {limits: [{rate: 2/s}]}}}
  billing: {on_error: deny}
`

// TestEmptyFile has files with nothing in them refused at the start, by a reload
// and by validate, and one that says so accepted by all.
func TestEmptyFile(t *testing.T) {
	dir := t.TempDir()
	for i, tt := range []struct {
		text string
		says string // at the start; "": it is accepted
		also string // at a reload
	}{
		{"", `nothing is in this file; to configure nothing, write "namespaces: {}"`, ""},
		{" \n\n", "nothing is in this file", ""},
		{"# nothing yet\n", "nothing is in this file", ""},
		{"null\n", "nothing is in this file", ""},
		{"~", "nothing is in this file", ""},
		{"---\n", "nothing is in this file", ""},
		{"--- # a\n...\n", "nothing is in this file", ""},
		{"\ufeff", "nothing is in this file", ""},
		{"log_level: warn\n", "", `has no namespaces, and some are in force; to configure none, write "namespaces: {}"`},
		{"namespaces:\n", "", "has no namespaces, and some are in force"},
		{"namespaces: {}\n", "", ""},
		{"namespaces: {}\nlog_level: warn\n", "", ""},
	} {
		file := write(t, filepath.Join(dir, fmt.Sprint(i, ".yaml")), tt.text)
		_, _, err := read(map[string]string{"config": file}, nil)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("at the start %q: %v, want %q", tt.text, err, tt.says)
		}
		var out strings.Builder
		v := config.Validation{Lookup: func(string) (string, bool) { return "", false }, Check: func(*config.Config) error { return nil }, Stdout: &out, Stderr: &out}
		if v.Run([]string{file}) != (tt.says == "") || !strings.Contains(out.String(), tt.says) {
			t.Errorf("validate %q: %s, want %q", tt.text, out.String(), tt.says)
		}

		write(t, file, two)
		c, before, err := read(map[string]string{"config": file}, nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, tt.text)
		_, err = c.Reload(before)
		want := tt.says + tt.also
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("at a reload %q: %v, want %q", tt.text, err, want)
		}
	}
}

// TestReload changes what is in force, and reads what is logged.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	edge := filepath.Join(dir, "envoy")
	if err := os.Mkdir(edge, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(edge, "a.yaml"), "domain: a\n")
	write(t, filepath.Join(edge, "b.yaml"), "domain: b\n")
	file := write(t, filepath.Join(dir, "c.yaml"), two+"max_log_count: 100\n")
	c, before, err := read(map[string]string{"config": file, "envoy-config-dir": edge, "log-level": "warn"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	same, err := c.Reload(before)
	if err != nil || same.Version != before.Version || same.Version == "" || same.Removed != nil || same.Restart != nil {
		t.Errorf("what has not changed is read as %+v, %v", same, err)
	}

	write(t, file, "namespaces: {checkout: {policies: {search: {limits: [{rate: 9/s}]}}}}\nlog_level: debug\nstore_timeout: 1s\nmax_log_count: 100\n")
	if err := os.Remove(filepath.Join(edge, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	next, err := c.Reload(before)
	if err != nil || next.Version == before.Version {
		t.Fatalf("version %s, %v", next.Version, err)
	}
	if want := []string{`namespace "billing"`, `policy "default" of namespace "checkout"`, `domain "a"`}; !slices.Equal(next.Removed, want) {
		t.Errorf("removed %q, want %q", next.Removed, want)
	}
	if !slices.Equal(next.Restart, []string{"store_timeout"}) { // log_level has its value from the command line
		t.Errorf("a restart is needed for %q", next.Restart)
	}
	if c.Store.Timeout.String() != "50ms" {
		t.Errorf("the settings in force have changed: %v", c.Store.Timeout)
	}

	for _, tt := range []struct{ text, says string }{
		{"namespaces: {}\nstore_timeout: 0s\n", "store_timeout 0s: must be above 0"},
		{"namespaces: {a: {polices: {}}}\n", `:1:18: unknown key "polices"`},
		{"namespaces: {a: {policies: {b: {limits: [{rate: 200/s, strategy: sliding_window_log}]}}}}\nmax_log_count: 300\n", "200"}, // it would need a restart first
	} {
		write(t, file, tt.text)
		refused, err := c.Reload(before)
		if err == nil || !strings.Contains(err.Error(), tt.says) || refused.Version == before.Version {
			t.Errorf("%s: %v, want %s", tt.text, err, tt.says)
		}
	}
}

// TestRemovedIsBounded removes many namespaces.
func TestRemovedIsBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("namespaces:\n")
	for i := range 23 {
		fmt.Fprintf(&text, "  n%02d: {}\n", i)
	}
	file := write(t, filepath.Join(t.TempDir(), "c.yaml"), text.String())
	c, before, err := read(map[string]string{"config": file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, "namespaces: {}\n")
	next, err := c.Reload(before)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	next.Log(slog.New(slog.NewTextHandler(&log, nil)))
	if lines := log.String(); strings.Count(lines, "\n") != 1 || !strings.Contains(lines, "level=WARN") || !strings.Contains(lines, `n09\" and 13 more`) || strings.Contains(lines, "n10") {
		t.Errorf("logged %s", lines)
	}
}

// TestValidateDir checks a directory with files of both kinds.
func TestValidateDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a.yaml"), two)
	write(t, filepath.Join(dir, "b.yml"), "domain: b\ndescriptors: []\n")
	write(t, filepath.Join(dir, "below", "c.yaml"), "domain: b\n")
	write(t, filepath.Join(dir, "d.yaml"), "descriptors: []\n")
	write(t, filepath.Join(dir, "e.yaml"), "namespace: {}\n")
	write(t, filepath.Join(dir, "f.txt"), "not YAML: [")
	var out, errs strings.Builder
	v := config.Validation{Lookup: func(string) (string, bool) { return "", false }, Check: func(*config.Config) error { return nil }, Stdout: &out, Stderr: &errs}
	if v.Run([]string{dir}) {
		t.Error("it accepts all")
	}
	if want := fmt.Sprintf("%s/a.yaml: ok, as a file of --config\n%s/b.yml: ok, as a file of --envoy-config-dir\n", dir, dir); out.String() != want {
		t.Errorf("it accepts %s", out.String())
	}
	for _, want := range []string{
		"/below/c.yaml:1:9: domain \"b\" is also that of " + dir + "/b.yml", "/below/c.yaml: refused, as a file of --envoy-config-dir\n",
		"/d.yaml:1:1: no domain", "/d.yaml: refused, as a file of --envoy-config-dir\n",
		`/e.yaml:1:1: unknown key "namespace"`, "/e.yaml: refused, as a file of --config\n",
	} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("it does not say %s:\n%s", want, errs.String())
		}
	}
	if strings.Contains(errs.String(), "f.txt") {
		t.Error("it reads f.txt")
	}
}
