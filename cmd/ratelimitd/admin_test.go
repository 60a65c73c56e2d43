package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// TestAdmin has top look at a daemon, and reads what configuration it has in
// force.
func TestAdmin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ratelimitd.yaml")
	if err := os.WriteFile(file, []byte("redis_password: of the file\nnamespaces:\n  checkout:\n    policies:\n      default: {limits: [{rate: 2/366d}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at, _ := servesAt(t, nil, "--config", file, "--redis-sentinel-password=of the command line")
	for range 5 { // 3 are denied
		if _, stderr, status := runs(t, nil, "check", "--addr", at.GRPC, "--namespace=checkout", "--identifier=alice", "--policy=default"); status == exitError {
			t.Fatal(stderr)
		}
	}

	stdout, stderr, status := runs(t, nil, "top", "--admin-addr", at.Admin, "--interval=100ms", "--once", "--json")
	var view struct {
		Keys   float64
		Denied []struct{ Namespace, Identifier string } `json:"denied_most"`
	}
	if err := json.Unmarshal([]byte(stdout), &view); err != nil || status != exitOK {
		t.Fatalf("top: exit status %d, %v: %s%s", status, err, stdout, stderr)
	}
	if view.Keys != 1 || len(view.Denied) != 1 || view.Denied[0].Namespace != "checkout" || view.Denied[0].Identifier != "alice" {
		t.Errorf("top: %s", stdout)
	}
	stdout, stderr, status = runs(t, nil, "top", "--admin-addr", at.Admin, "--interval=100ms", "--once")
	if status != exitOK || !strings.Contains(stdout, "checkout  alice") || strings.Contains(stdout, "\x1b") {
		t.Errorf("top, not on a terminal: exit status %d: %q%s", status, stdout, stderr)
	}

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.Admin+"/configuration", nil)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Flags             map[string]any
		Version, Policies string
	}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for name, want := range map[string]any{
		"redis-password": flags.Hidden, "redis-url": []any{"redis://127.0.0.1:6379"}, "memory-snapshot-interval": "10s", "store": "memory", "drain-timeout": "10s", "policies-only": false, "max-message-bytes": 8388608.0, "envoy-near-limit-ratio": 0.8,
	} {
		if got := config.Flags[name]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %#v, want %#v", name, got, want)
		}
	}
	if config.Version == "" || !strings.Contains(config.Policies, "rate: 2/366d") {
		t.Errorf("configuration: %s", text)
	}
	if strings.Contains(string(text), "of the file") || strings.Contains(string(text), "of the command line") {
		t.Errorf("the configuration shows a password: %s", text)
	}
}
