package replay

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progressInterval is how often progress is shown.
const progressInterval = 250 * time.Millisecond

// isTerminal reports whether w is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// progress shows how far r is, until done is closed.
func (r *run) progress(out io.Writer, done <-chan struct{}) {
	size := int64(0)
	for _, name := range r.names {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
	}
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	start := time.Now()
	for {
		select {
		case <-done:
			fmt.Fprint(out, "\r\x1b[K")
			return
		case <-tick.C:
		}
		n, read := r.done.Load(), r.read.Load()
		line := fmt.Sprintf("%d records, %.1f million a second", n, float64(n)/time.Since(start).Seconds()/1e6)
		if size > 0 {
			line += fmt.Sprintf(", %d %%", min(100, 100*read/size))
		}
		fmt.Fprint(out, "\r\x1b[K"+line)
	}
}
