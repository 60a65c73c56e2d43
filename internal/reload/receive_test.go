package reload_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ratelimitd/ratelimitd/internal/reload"
)

// TestReceive has a source send configuration: what is good is applied once, and what is
// bad is refused with its reason and leaves what is in force.
func TestReceive(t *testing.T) {
	var log strings.Builder
	registry := prometheus.NewRegistry()
	w := reload.New(reload.Options{Version: "one", Logger: slog.New(slog.NewTextHandler(&log, nil)), Registry: registry})
	inForce := "one"
	receive := func(version string) error {
		return w.Receive(func(seen string) (string, func(), error) {
			switch {
			case seen != inForce:
				t.Errorf("it believes that %q is in force, and %q is", seen, inForce)
			case version == "panic":
				panic("planted")
			case strings.HasPrefix(version, "bad"):
				return version, nil, errors.New(version + " is bad")
			}
			return version, func() { inForce = version }, nil
		})
	}
	for _, step := range []struct{ send, inForce, err string }{
		{"one", "one", ""}, {"two", "two", ""}, {"bad", "two", "bad is bad"}, {"bad", "two", "bad is bad"},
		{"two", "two", ""}, {"panic", "two", "panicked"}, {"three", "three", ""}, {"bad", "three", "bad is bad"},
	} {
		err := receive(step.send)
		if inForce != step.inForce || (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
			t.Errorf("after %s: %s is in force, %v; want %s, %s", step.send, inForce, err, step.inForce, step.err)
		}
		if s := w.State(); s.Version != step.inForce || s.Since.IsZero() || (s.Refused == nil) != (err == nil) || err != nil && (!strings.Contains(s.Refused.Error(), step.err) || s.RefusedAt.IsZero()) {
			t.Errorf("after %s: the state is %+v", step.send, s)
		}
	}
	want := `# HELP ratelimitd_config_last_reload_successful 1 if the configuration in the files, or received last, is in force; 0 if it was refused.
# TYPE ratelimitd_config_last_reload_successful gauge
ratelimitd_config_last_reload_successful 0
# HELP ratelimitd_config_reloads_total Changes of configuration, by whether it was applied, or refused because it cannot be used.
# TYPE ratelimitd_config_reloads_total counter
ratelimitd_config_reloads_total{result="applied"} 2
ratelimitd_config_reloads_total{result="refused"} 3
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "ratelimitd_config_last_reload_successful", "ratelimitd_config_reloads_total"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "is refused and the old one stays in force; correct it where it comes from"); n != 3 {
		t.Errorf("%d refusals are logged, want 3:\n%s", n, log.String())
	}
}
