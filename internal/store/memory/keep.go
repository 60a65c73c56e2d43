package memory

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// DefaultSnapshotInterval is how much a daemon that is killed forgets at most. A snapshot of a
// million counters takes a processor 0.1 s, and so 1% of it, and writes 28 MB.
const DefaultSnapshotInterval = 10 * time.Second

// The names of the files beside a snapshot are its own and one of these.
const (
	writingSuffix = ".tmp"     // what is being written
	refusedSuffix = ".refused" // the last one that could not be used
	lockSuffix    = ".lock"    // locked by the process that keeps its counters there
)

// Snapshots say where a Store keeps its counters, and how often.
type Snapshots struct {
	File     string        // in a folder that nobody else writes to
	Interval time.Duration // 0 is DefaultSnapshotInterval
}

// A keeper keeps the counters of a store in a file.
type keeper struct {
	Snapshots

	store  *stripes
	logger *slog.Logger
	lock   *os.File

	stop    chan struct{}
	stopped sync.WaitGroup

	mu       sync.Mutex // protects the following, for the metrics
	last     time.Time  // when the last snapshot was complete; that of the start counts too
	took     time.Duration
	bytes    int64
	failures uint64
}

// keep restores the counters that o.File has to s, and from then on keeps those of s there:
// see Store.Keep.
func keep(o Snapshots, s *stripes) (*keeper, error) {
	k := &keeper{Snapshots: o, store: s, logger: s.losses.logger, stop: make(chan struct{})}
	k.Interval = cmp.Or(k.Interval, DefaultSnapshotInterval)
	if err := k.check(); err != nil {
		return nil, err
	}
	if err := k.restore(); err != nil {
		return nil, errors.Join(err, k.lock.Close())
	}
	k.stopped.Go(k.run)
	return k, nil
}

// check locks the file, and checks that a snapshot can be written.
func (k *keeper) check() error {
	folder := filepath.Dir(k.File)
	lock, err := os.OpenFile(k.File+lockSuffix, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return cannotWrite(folder, err)
	}
	if err := lockFile(lock); err != nil {
		return errors.Join(fmt.Errorf("another process keeps its counters in %q: %w; give each daemon a file of its own", k.File, err), lock.Close())
	}
	if err := tryWriting(k.File + writingSuffix); err != nil {
		return errors.Join(cannotWrite(folder, err), lock.Close())
	}
	k.lock = lock
	return nil
}

func cannotWrite(folder string, err error) error {
	return fmt.Errorf("snapshots of the counters cannot be written to %q: %w; create that folder and let this process write there", folder, err)
}

// tryWriting finds out whether a file can be made.
func tryWriting(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(name))
}

// restore restores what the file has.
func (k *keeper) restore() error {
	f, err := os.Open(k.File)
	if errors.Is(err, fs.ErrNotExist) {
		k.logger.Info("there is no snapshot of the counters yet, so they start afresh", "file", k.File)
		return nil
	}
	if err != nil {
		return fmt.Errorf("the snapshot of the counters cannot be read: %w; let this process read it, or remove it", err)
	}
	defer func() { _ = f.Close() }()
	start := time.Now()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is no regular file, so it cannot be a snapshot of the counters; name another", k.File)
	}
	found, err := k.store.read(f)
	if err != nil {
		return k.refuse(err)
	}
	taken := time.UnixMicro(int64(found.taken))
	k.last, k.bytes = info.ModTime(), info.Size()
	k.logger.Info("the counters of a snapshot are restored", "file", k.File, "taken", taken.UTC(), "age", start.Sub(taken).Round(time.Millisecond),
		"counters", found.counters, "expired", found.expired, "took", time.Since(start).Round(time.Millisecond))
	return nil
}

// refuse sets a file aside that cannot be used.
func (k *keeper) refuse(why error) error {
	k.store.clear()
	aside := k.File + refusedSuffix
	if err := os.Rename(k.File, aside); err != nil {
		return fmt.Errorf("the snapshot of the counters in %q cannot be used: %w; and it cannot be renamed: %w", k.File, why, err)
	}
	k.logger.Error("the snapshot of the counters cannot be used: the counters start afresh, and the file is set aside", "file", k.File, "reason", why, "set_aside", aside)
	return nil
}

// run takes snapshots until it is stopped.
func (k *keeper) run() {
	tick := time.NewTicker(k.Interval)
	defer tick.Stop()
	for {
		select {
		case <-k.stop:
			return
		case <-tick.C:
			k.keep()
		}
	}
}

// close takes the last snapshot.
func (k *keeper) close() error {
	close(k.stop)
	k.stopped.Wait()
	k.keep()
	return k.lock.Close()
}

// keep takes a snapshot. If that fails, the file remains that of the last one.
func (k *keeper) keep() {
	start := time.Now()
	counters, bytes, err := k.write()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.failures++
		last := "none"
		if !k.last.IsZero() {
			last = k.last.UTC().Format(time.RFC3339)
		}
		k.logger.Error("no snapshot of the counters could be written: a restart would go back to the last one", "file", k.File, "error", err, "last", last)
		return
	}
	k.last, k.took, k.bytes = time.Now(), time.Since(start), bytes
	k.logger.Debug("a snapshot of the counters is written", "file", k.File, "counters", counters, "bytes", bytes, "took", k.took)
}

// write writes a snapshot beside the file, and then puts it in the file's place.
func (k *keeper) write() (counters uint64, bytes int64, err error) {
	writing := k.File + writingSuffix
	_ = os.Remove(writing) // of a process that was killed; it may have other permissions
	f, err := os.OpenFile(writing, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(writing) // so that it does not fill the disk
		}
	}()
	counters, err = k.store.write(f)
	if err == nil {
		err = f.Sync()
	}
	if info, statErr := f.Stat(); statErr == nil {
		bytes = info.Size()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, 0, err
	}
	if err := os.Rename(writing, k.File); err != nil {
		return 0, 0, err
	}
	return counters, bytes, syncFolder(filepath.Dir(k.File))
}

// syncFolder makes the names of the files in a folder outlast the machine.
func syncFolder(name string) error {
	folder, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
