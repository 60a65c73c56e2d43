package yamlfile_test

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// meaning returns what a YAML document says, as JSON.
func meaning(t *testing.T, text string) string {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Skip(err) // keys that are no texts
	}
	return string(b)
}

// documents are all kinds of YAML.
var documents = []string{
	"a: 1", "a: b c\nd: [e, f, {g: h}]\n", "- a\n- b: c\n  d: e\n- - f\n  - g\n", "{}", "[]", "a: {}\nb: []\nc:\nd: ~\n",
	"a: 'it''s'\nb: \"x\\ty\"\nc: |\n  one\n  two\nd: >\n  one\n  two\ne: one\n  two\n", "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n",
	"a: &x\n  b: 1\nc: [*x, *x]\n", "a: !!str 1\nb: \"1\"\nc: 1\n", "\"a: b\": \"# c\"\n'*d': \"- e\"\n", "a: \"\"\n", "a: <b>&c\n", "a: http://x:1/y#z\n",
	"checkout:\n  exempt: [\"internal-*\", \"10.0.0.0/8\"]  # why\n  policies:\n    default:\n      limits:\n        - {name: burst, rate: 50/s}\n        - rate: 5/s\n          name: slow\n",
}

func TestString(t *testing.T) {
	for _, text := range documents {
		f, root := yamlfile.Parse("x.yaml", []byte(text))
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		printed := root.String()
		if got, want := meaning(t, printed), meaning(t, text); got != want {
			t.Errorf("%q is printed as %q, which means %s and not %s", text, printed, got, want)
		}
		if len(printed) > 2*len(text)+20 {
			t.Errorf("%q: %d bytes are printed for %d", text, len(printed), len(text))
		}
	}
	if _, root := yamlfile.Parse("x.yaml", []byte(documents[1])); root.String() != "a: b c\nd: [e, f, {g: h}]\n" {
		t.Errorf("%q", root.String())
	}
}

// TestMemory holds a large file to the memory that it may take.
func TestMemory(t *testing.T) {
	text := "p:\n" + strings.Repeat("  - {limits: [{name: burst, rate: 50/s, strategy: token_bucket}]}\n", 20_000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, root := yamlfile.Parse("x.yaml", []byte(text))
	_ = root.String()
	runtime.ReadMemStats(&after)
	if times := (after.TotalAlloc - before.TotalAlloc) / uint64(len(text)); times > 60 {
		t.Errorf("it takes %d times its size, want at most 60", times)
	}
	for name, text := range map[string]string{"items": "[" + strings.Repeat("a,", 2_000_000) + "]", "lists": strings.Repeat("- ", 2_100_000) + "a", "lines": strings.Repeat("\n", 2_100_000) + "a: b"} {
		runtime.ReadMemStats(&before)
		f, root := yamlfile.Parse("x.yaml", []byte(text))
		runtime.ReadMemStats(&after)
		if err := f.Err(); err == nil || !strings.Contains(err.Error(), "more than 2000000") || !root.IsNull() {
			t.Errorf("%s: %v", name, err)
		}
		if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 100 {
			t.Errorf("%s: it takes %d MB to refuse it", name, mb)
		}
	}
}

func FuzzString(f *testing.F) {
	for _, text := range documents {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, root := yamlfile.Parse("x.yaml", []byte(text))
		if file.Err() != nil || root.IsNull() {
			return
		}
		printed := root.String()
		again, _ := yamlfile.Parse("y.yaml", []byte(printed))
		if err := again.Err(); err != nil {
			t.Fatalf("%q is printed as %q: %v", text, printed, err)
		}
	})
}
