package attack

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
)

// In the large form the attacker gives way to the daemon and to the innocent caller: all threads of this process
// have the lowest priority, but for the main goroutine's. That starts the other two, which inherit it.

// starts are what the main goroutine has to do.
var starts = make(chan func())

// startProcess starts a process that has the priority that this one began with.
func startProcess(cmd *exec.Cmd) error {
	started := make(chan error)
	starts <- func() { started <- cmd.Start() }
	return <-started
}

// inMain runs do, and meanwhile what others have the main goroutine do.
func inMain(do func()) {
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	for {
		select {
		case start := <-starts:
			start()
		case <-done:
			return
		}
	}
}

// giveWay has all threads but that of the caller, which it keeps, give way to others. Threads
// that begin later inherit that.
func giveWay() error {
	runtime.LockOSThread()
	const lowest = 19
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err == nil && id != syscall.Gettid() {
			err = syscall.Setpriority(syscall.PRIO_PROCESS, id, lowest)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) { // it has ended
			return err
		}
	}
	return nil
}
