package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// idleLoop runs until the process that started it has ended.
const idleLoop = `while kill -0 $PPID 2>/dev/null; do i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; done`

// keepAwake keeps each processor busy until stop is called, so that it never halts. On a
// virtual machine, the host takes a halted processor away, and may give it back late.
// The loops run in the scheduler's idle class (sched(7)), so all other processes go
// first.
func keepAwake() (stop func(), err error) {
	var loops []*exec.Cmd
	stop = func() {
		for _, loop := range loops {
			_ = loop.Process.Signal(syscall.SIGKILL) // it may have ended
			_ = loop.Wait()                          // by the signal
		}
	}
	for range runtime.NumCPU() {
		loop := exec.Command("chrt", "--idle", "0", "sh", "-c", idleLoop)
		if err := loop.Start(); err != nil {
			stop()
			return nil, fmt.Errorf("to keep the processors awake: %w; install util-linux", err)
		}
		loops = append(loops, loop)
	}
	return stop, nil
}
