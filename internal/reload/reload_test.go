package reload_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A watchedFile is a file whose text is its configuration, and a watcher of it.
type watchedFile struct {
	path     string
	applied  chan string
	refused  chan string // the texts that were, as often as Load was asked
	told     chan os.Signal
	registry *prometheus.Registry
	log      *strings.Builder
	logMu    *sync.Mutex
}

// Write implements io.Writer, for the log.
func (w *watchedFile) Write(p []byte) (int, error) {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.Write(p)
}

func (w *watchedFile) logged(text string) int {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return strings.Count(w.log.String(), text)
}

// watch watches path, which has the text "one", until the test ends.
func watch(t *testing.T, path string) *watchedFile {
	t.Helper()
	w := &watchedFile{
		path: path, applied: make(chan string, 100), refused: make(chan string, 100), told: make(chan os.Signal),
		registry: prometheus.NewRegistry(), log: new(strings.Builder), logMu: new(sync.Mutex),
	}
	watcher := reload.New(reload.Options{
		Dirs:    []string{filepath.Dir(path)},
		Writing: func() string { return reload.Writing(path) },
		Load: func(string) (string, func(), error) {
			data, err := os.ReadFile(path)
			if err != nil {
				return "", nil, err
			}
			text := string(data)
			if text == "panic" {
				panic("planted")
			}
			if strings.HasPrefix(text, "bad") {
				w.refused <- text
				return text, nil, errors.New("it is bad")
			}
			return text, func() { w.applied <- text }, nil
		},
		Version: "one", Logger: slog.New(slog.NewTextHandler(w, nil)), Registry: w.registry,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { watcher.Run(ctx, w.told); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	w.tell(t, "has not changed") // so that it is watching by now
	return w
}

// tell makes the watcher look at once. It returns when text is in the log once more.
func (w *watchedFile) tell(t *testing.T, text string) {
	t.Helper()
	before := w.logged(text)
	select {
	case w.told <- syscall.SIGHUP:
	case <-time.After(patient):
		t.Fatal("it does not listen")
	}
	w.logs(t, text, before+1)
}

// logs waits until text is in the log that many times.
func (w *watchedFile) logs(t *testing.T, text string, times int) {
	t.Helper()
	redistest.Eventually(t, fmt.Sprintf("%q in the log", text), func() error {
		if n := w.logged(text); n != times {
			return fmt.Errorf("it is there %d times, want %d", n, times)
		}
		return nil
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// patient is shorter than lookEvery. So a change that is noticed sooner was noticed because
// the system sent a notice.
const patient = 8 * time.Second

func (w *watchedFile) wants(t *testing.T, text string) {
	t.Helper()
	select {
	case got := <-w.applied:
		if got != text {
			t.Fatalf("%q is in force, want %q", got, text)
		}
	case <-time.After(patient):
		t.Fatalf("%q is not in force", text)
	}
}

func (w *watchedFile) wantsMetrics(t *testing.T, want string) {
	t.Helper()
	const help = `# HELP ratelimitd_config_last_reload_successful 1 if the configuration in the files, or received last, is in force; 0 if it was refused.
# TYPE ratelimitd_config_last_reload_successful gauge
# HELP ratelimitd_config_reloads_total Changes of configuration, by whether it was applied, or refused because it cannot be used.
# TYPE ratelimitd_config_reloads_total counter
`
	if err := testutil.GatherAndCompare(w.registry, strings.NewReader(help+want+"\n"), "ratelimitd_config_last_reload_successful", "ratelimitd_config_reloads_total"); err != nil {
		t.Error(err)
	}
}

func TestWrittenAndReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	write(t, path, "one")
	w := watch(t, path)
	write(t, path, "two")
	w.wants(t, "two")
	write(t, path+".new", "three")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	w.wants(t, "three")
	w.tell(t, "has not changed")
	if len(w.applied) != 0 {
		t.Error("what is in force was put in force again")
	}
	w.wantsMetrics(t, "ratelimitd_config_last_reload_successful 1\nratelimitd_config_reloads_total{result=\"applied\"} 2\nratelimitd_config_reloads_total{result=\"refused\"} 0")
}

// TestConfigMap replaces the file as Kubernetes does: through a link to a directory.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "c.yaml"), version)
	}
	link("one", "..data")
	link("..data/c.yaml", "c.yaml")
	w := watch(t, filepath.Join(dir, "c.yaml"))
	link("two", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	w.wants(t, "two")
}

func TestRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	write(t, path, "one")
	w := watch(t, path)
	write(t, path, "bad one")
	select {
	case <-w.refused:
	case <-time.After(patient):
		t.Fatal("it was not read")
	}
	w.logs(t, "is refused", 1)
	for len(w.refused) > 0 {
		<-w.refused
	}
	write(t, filepath.Join(filepath.Dir(path), "another"), "so that it looks again")
	select {
	case <-w.refused:
	case <-time.After(patient):
		t.Fatal("it was not read again")
	}
	if len(w.applied) != 0 {
		t.Error("it was put in force")
	}
	write(t, path, "two")
	w.wants(t, "two")
	w.logs(t, "is refused", 1)

	write(t, path, "bad two")
	w.logs(t, "is refused", 2)
	w.wantsMetrics(t, "ratelimitd_config_last_reload_successful 0\nratelimitd_config_reloads_total{result=\"applied\"} 1\nratelimitd_config_reloads_total{result=\"refused\"} 2")
	w.tell(t, "is refused") // says so again
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.logs(t, "no such file", 1)
	write(t, path, "two") // as it was
	w.tell(t, "has not changed")
	if len(w.applied) != 0 {
		t.Error("what is in force was put in force again")
	}
	w.wantsMetrics(t, "ratelimitd_config_last_reload_successful 1\nratelimitd_config_reloads_total{result=\"applied\"} 1\nratelimitd_config_reloads_total{result=\"refused\"} 4")
}

// TestRemovedAndMadeAgain removes the directory of the file, and then also the one above
// it, and makes them again.
func TestRemovedAndMadeAgain(t *testing.T) {
	above := filepath.Join(t.TempDir(), "a", "b")
	dir := filepath.Join(above, "c")
	path := filepath.Join(dir, "c.yaml")
	make := func(text string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, text)
	}
	make("one")
	w := watch(t, path)
	for i, removed := range []string{dir, above, filepath.Dir(above), dir} {
		if err := os.RemoveAll(removed); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // so that it notices
		text := fmt.Sprint("again ", i)
		make(text)
		w.wants(t, text)
		write(t, path, text+" and more")
		w.wants(t, text+" and more")
	}
	w.logs(t, "seen late", 0)
}

// TestReplacedDirectory replaces the directory, and what a link in its path leads to.
func TestReplacedDirectory(t *testing.T) {
	root := t.TempDir()
	for _, version := range []string{"one", "two", "three"} {
		if err := os.Mkdir(filepath.Join(root, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, version, "c.yaml"), version)
	}
	link := filepath.Join(root, "current")
	point := func(to string) {
		t.Helper()
		if err := os.Symlink(to, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	point("one")
	w := watch(t, filepath.Join(link, "c.yaml"))
	point("two")
	w.wants(t, "two")
	write(t, filepath.Join(link, "c.yaml"), "two, written")
	w.wants(t, "two, written")
	point("three")
	w.wants(t, "three")
	write(t, filepath.Join(link, "c.yaml"), "three, written")
	w.wants(t, "three, written")
}

// TestSlowWriter appends to the file step by step. What is written so far would do, but
// only the whole is put in force, and on SIGHUP what there is.
func TestSlowWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	write(t, path, "one")
	w := watch(t, path)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := f.WriteString("line\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(600 * time.Millisecond)
	}
	if len(w.applied) != 0 {
		t.Fatalf("%q is in force before it is whole", <-w.applied)
	}
	time.Sleep(2500 * time.Millisecond) // longer than it must have stayed the same
	if len(w.applied) != 0 {
		t.Fatalf("%q is in force while the file is open for writing", <-w.applied)
	}
	w.logs(t, "has a file open for writing", 1)
	w.tell(t, "is in force")
	w.wants(t, strings.Repeat("line\n", 5))
	if _, err := f.WriteString("the end"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond)
	if len(w.applied) != 0 {
		t.Fatalf("%q is in force while the file is open for writing", <-w.applied)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.wants(t, strings.Repeat("line\n", 5)+"the end")
}

// TestPanicIsRefused has a file that makes its reader panic.
func TestPanicIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	write(t, path, "one")
	w := watch(t, path)
	write(t, path, "panic")
	w.logs(t, "panicked", 1)
	write(t, path, "two")
	w.wants(t, "two")
}
