package envoy

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// TestAliasesAreBounded has small files that aliases make huge.
func TestAliasesAreBounded(t *testing.T) {
	var names, counts strings.Builder
	counts.WriteString("domain: d\nx0: &x0 {key: k, value: v}\n")
	names.WriteString("domain: d\nx0: &x0 {key: " + strings.Repeat("k", 1000) + "}\n")
	for i := range 90 {
		fmt.Fprintf(&names, "x%d: &x%d {key: %s, descriptors: [*x%d]}\n", i+1, i+1, strings.Repeat("k", 1000), i)
	}
	names.WriteString("descriptors:\n")
	for i := range 5000 {
		fmt.Fprintf(&names, "- {key: k%d, descriptors: [*x90]}\n", i)
	}
	counts.WriteString("many: &many [" + strings.TrimSuffix(strings.Repeat("*x0 , ", 1), ", ") + "]\ndescriptors:\n")
	counts.WriteString("- &d0 {key: a, rate_limit: {unit: second, requests_per_unit: 1}}\n")
	for i := range 18 {
		fmt.Fprintf(&counts, "- &d%d {key: a%d, descriptors: [*d%d, {key: b, descriptors: [*d%d]}]}\n", i+1, i+1, i, i)
	}
	for i := range 1000 {
		fmt.Fprintf(&counts, "- {key: c%d, descriptors: [*d18]}\n", i)
	}
	for name, text := range map[string]string{"long names": names.String(), "many descriptors": counts.String()} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, root := yamlfile.Parse("x.yaml", []byte(text))
		r := NewReader(Options{MaxLogCount: 10_000})
		r.Read("x.yaml", root)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if err := f.Err(); err == nil || !strings.Contains(err.Error(), "more than 500000 descriptors") && !strings.Contains(err.Error(), "aliases make the file too large") {
			t.Errorf("%s: %.500v", name, err)
		}
		if mb := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; mb > 500 {
			t.Errorf("%s: %d bytes take %d MB", name, len(text), mb)
		}
		if len(r.Warnings) > maxWarnings+1 {
			t.Errorf("%s: %d warnings", name, len(r.Warnings))
		}
		runtime.KeepAlive(r)
	}
}

func TestWarningsAreBounded(t *testing.T) {
	f, root := yamlfile.Parse("x.yaml", []byte("domain: d\ndescriptors:\n"+strings.Repeat("- {key: a, unit: second}\n", 1)+func() string {
		var b strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&b, "- {key: a%d, unit: second}\n", i)
		}
		return b.String()
	}()))
	r := NewReader(Options{MaxLogCount: 10_000})
	if r.Read("x.yaml", root); f.Err() != nil || len(r.Warnings) != maxWarnings+1 {
		t.Errorf("%d warnings, %v", len(r.Warnings), f.Err())
	}
}
