package attack

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// operatorAttacks reach the daemon by what its operator gives it: files, and its log.
func operatorAttacks() []attack {
	return []attack{
		{name: "a log that nobody reads", prepare: func(*testing.T) setup { return setup{log: leavesLog} }, do: func(ctx context.Context, t *testing.T, d *daemon) {
			nonsense(ctx, t, d)
			logLevels(ctx, t, d, size(2000, 30_000))
		}},
		{name: "a log that is closed", prepare: func(*testing.T) setup { return setup{log: closesLog} }, do: func(ctx context.Context, t *testing.T, d *daemon) {
			nonsense(ctx, t, d)
			logLevels(ctx, t, d, size(2000, 30_000))
		}},
		{name: "configuration files", do: configurations},
	}
}

// logLevels makes lines of the log.
func logLevels(ctx context.Context, t *testing.T, d *daemon, lines int) {
	together(ctx, 4, lines, func(int) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+d.Admin+"/loglevel", strings.NewReader("info"))
		if err != nil {
			t.Error(err)
			return
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
	})
}

// configurations writes files in place of the configuration that no operator should
// write, and each again and again; and halves of good ones.
func configurations(ctx context.Context, t *testing.T, d *daemon) {
	good, err := os.ReadFile(d.config)
	if err != nil {
		t.Fatal(err)
	}
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	many := func(n int) string {
		var text strings.Builder
		text.WriteString("namespaces:\n")
		for i := range n {
			fmt.Fprintf(&text, "  n%d: {polices: {default: {limits: [{rate: 1/x}]}}}\n", i)
		}
		return text.String()
	}
	bad := []string{
		bomb.String(), strings.Repeat("[", 1_000_000), strings.Repeat("{a: ", 200_000), strings.Repeat("- ", 500_000),
		many(20_000), "\xff\xfe\x00n", strings.Repeat("x", 32<<20), "namespaces: &n\n  a: *n\n", "? ? ? ? ? ?\n: : :\n", "%YAML 9.9\n---\n!!binary x", "namespaces:\n  \"" + strings.Repeat(`\u0041`, 1_000_000),
		"\x00",
	}
	rounds := size(1, 20)
	for range rounds {
		for _, text := range bad {
			write(t, d.config, text)
			_ = d.process.Signal(syscall.SIGHUP)
			pause(ctx, 20*time.Millisecond)
		}
		// A writer that stops in the middle: what is there is valid YAML all the same.
		f, err := os.Create(d.config)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			_, _ = f.Write(good[i : i+1])
			if i%10 == 0 {
				_ = d.process.Signal(syscall.SIGHUP)
				pause(ctx, time.Millisecond)
			}
		}
		_ = f.Close()
		for i := range size(100, 1000) {
			write(t, d.config, string(good)+fmt.Sprintf("  extra%d: {policies: {default: {limits: [{rate: 1/s}]}}}\n", i))
		}
		// What is no file, in its place.
		for _, put := range []func() error{
			func() error { return syscall.Mkfifo(d.config, 0o600) },
			func() error { return os.Mkdir(d.config, 0o700) },
			func() error { return os.Symlink("/dev/zero", d.config) },
			func() error { return os.Symlink(d.config, d.config) },
		} {
			err := os.RemoveAll(d.config)
			if err == nil {
				err = put()
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = d.process.Signal(syscall.SIGHUP)
			pause(ctx, 20*time.Millisecond)
		}
		_ = os.RemoveAll(filepath.Dir(d.config))
		pause(ctx, 20*time.Millisecond)
		if err := os.MkdirAll(filepath.Dir(d.config), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, d.config, string(good))
		_ = d.process.Signal(syscall.SIGHUP)
	}
}

// pause waits, so that the daemon has time to look.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
