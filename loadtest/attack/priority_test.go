package attack

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
)

// In the large form the attacker gives way to the daemon and to the innocent caller: all threads of this process
// have the lowest priority, but for the main one. That starts the other two, which inherit it.

func init() { runtime.LockOSThread() } // the main goroutine stays on the main thread

// starts are what the main thread has to do.
var starts = make(chan func())

// startProcess starts a process that has the priority that this one began with.
func startProcess(cmd *exec.Cmd) error {
	started := make(chan error)
	starts <- func() { started <- cmd.Start() }
	return <-started
}

// inMain runs do, and meanwhile what others have the main thread do.
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

// giveWay has all threads but the main one give way to others. Threads that begin later
// inherit that.
func giveWay() error {
	const lowest = 19
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err == nil && id != os.Getpid() {
			err = syscall.Setpriority(syscall.PRIO_PROCESS, id, lowest)
		}
		if err != nil && err != syscall.ESRCH { // it has ended
			return err
		}
	}
	return nil
}
