package cputime

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestOf(t *testing.T) {
	before, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	after, err := Of(os.Getpid())
	if used := after - before; err != nil || used <= 0 || used > 10*time.Second {
		t.Errorf("used %v, %v", used, err)
	}
	if _, err := Of(1 << 23); err == nil {
		t.Error("a process that does not exist has used time")
	}
}

func TestStolen(t *testing.T) {
	stolen, all, err := Stolen()
	if err != nil || all == 0 || stolen > all {
		t.Fatalf("%d of %d ticks, %v", stolen, all, err)
	}
	const second = 100 // ticks of a processor
	if cores := uint64(runtime.NumCPU()); all < second*cores {
		t.Errorf("%d processors have had %d ticks since the start", cores, all)
	}
}

func TestListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if pid, err := Listener(port); err != nil || pid != os.Getpid() {
		t.Errorf("process %d, %v; want %d", pid, err, os.Getpid())
	}
	l.Close()
	if pid, err := Listener(port); err == nil {
		t.Errorf("process %d listens on a port that is closed", pid)
	}
}
