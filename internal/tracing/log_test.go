package tracing

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
)

// TestProblems has OpenTelemetry report problems, and reads what is logged.
func TestProblems(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1000, 0)
	p := &problems{logger: slog.New(slog.NewJSONHandler(&out, nil)), now: func() time.Time { return now }}
	lines := func() int { defer out.Reset(); return strings.Count(out.String(), "\n") }

	p.log("refused")
	if !strings.Contains(out.String(), `"msg":"tracing: spans may be lost","problem":"refused"`) {
		t.Errorf("logged %s", out.String())
	}
	lines()
	for range 1000 {
		p.log("refused")
	}
	if n := lines(); n != 0 {
		t.Errorf("%d more lines of the same", n)
	}
	for i := range 1000 {
		p.log(strings.Repeat("x", i+1))
	}
	if n := lines(); n != mostLines-1 {
		t.Errorf("%d more lines, want %d", n, mostLines-1)
	}
	now = now.Add(sameEvery)
	p.log("refused")
	if !strings.Contains(out.String(), `"not_logged":991`) {
		t.Errorf("after a minute it logs %s", out.String())
	}
}

func TestLogTo(t *testing.T) {
	var out strings.Builder
	logTo(slog.New(slog.NewJSONHandler(&out, nil)))
	defer logTo(slog.New(slog.DiscardHandler))
	otel.Handle(errors.New("no collector"))
	if !strings.Contains(out.String(), `"problem":"no collector"`) || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("an error is logged as %q", out.String())
	}
	out.Reset()
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=%zzsecret")
	spans, err := NewProvider(t.Context(), "v1", slog.New(slog.NewJSONHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = spans.Shutdown(t.Context()) }()
	if text := out.String(); !strings.Contains(text, "escape header value") || strings.Contains(text, "secret") {
		t.Errorf("a header that is wrong is logged as %q", text)
	}
}
