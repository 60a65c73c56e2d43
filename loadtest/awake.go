package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// idleLoop does nothing until the process that started it is gone.
const idleLoop = `while kill -0 $PPID 2>/dev/null; do i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; done`

// keepAwake has each processor do nothing when it has nothing else to do, and
// not halt, until stop is called. On a virtual machine the host takes a halted
// processor away and may be long in giving it back. The loops are of the
// scheduler's idle class (sched(7)): all other processes go before them.
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
