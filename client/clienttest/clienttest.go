// Package clienttest runs a daemon for the tests of a service that asks ratelimitd. It is
// the real one, with a clock that stands still until the test turns it:
//
//	daemon := clienttest.Start(t)
//	limits, err := client.New(daemon.Options())
//	...
//	daemon.Advance(t, time.Minute)
//
// The program ratelimitd must be on the PATH, or where the environment variable
// RATELIMITD_BIN says. It is a process of its own and no package, so that your module
// depends on none of what the daemon is made of. Tests in other languages start the same:
//
//	ratelimitd serve --test-clock --grpc-addr=127.0.0.1:0 --http-addr=127.0.0.1:0 --admin-addr=127.0.0.1:0 --log-format=json
//
// Its log has the line "serving" with the addresses, and a POST to /test-clock?advance=1m
// on the admin port turns the clock.
package clienttest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/client"
)

// BinaryVariable is the environment variable that has the path of the daemon.
const BinaryVariable = "RATELIMITD_BIN"

// patience is how long a daemon has to serve, to answer, or to stop.
const patience = time.Minute

// A Daemon is a process of ratelimitd. Start makes it. Tests may use it from one goroutine.
type Daemon struct {
	GRPC, HTTP, Admin string // where it serves; they stay the same when it starts again

	program string
	dir     string
	flags   []string
	process *os.Process
	ended   chan struct{} // closed when process has
}

// Options say how to run a daemon. The zero Options have it count in memory, without
// policies.
type Options struct {
	Flags     []string // of "ratelimitd serve", such as --config=policies.yaml
	Dir       string   // where it runs; "": where the test does
	RealClock bool     // its clock is that of the machine, and Advance cannot turn it
}

// Start runs a daemon with flags until the test ends, on free ports of loopback. Its clock
// stands at the beginning of the year 2000, UTC, and Advance alone turns it.
func Start(tb testing.TB, flags ...string) *Daemon {
	tb.Helper()
	return Run(tb, Options{Flags: flags})
}

// Run is Start, with more options.
func Run(tb testing.TB, o Options) *Daemon {
	tb.Helper()
	program := os.Getenv(BinaryVariable)
	if program == "" {
		var err error
		if program, err = exec.LookPath("ratelimitd"); err != nil {
			tb.Fatalf("clienttest: no program ratelimitd: put it on the PATH, or set %s to where it is: %v", BinaryVariable, err)
		}
	}
	d := &Daemon{program: program, dir: o.Dir, flags: o.Flags, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0"}
	if !o.RealClock {
		d.flags = append([]string{"--test-clock"}, d.flags...)
	}
	tb.Cleanup(d.Kill)
	d.Restart(tb)
	return d
}

// Options returns the options of a client of d: with time for an answer on a machine that
// is busy with tests, and without a memory of denials, which no clock of ours turns.
func (d *Daemon) Options() client.Options {
	return client.Options{Addresses: []string{d.GRPC}, Timeout: patience, OnFailure: client.Deny, MaxDenials: -1}
}

// Restart starts d again, where it served before. It must have ended.
func (d *Daemon) Restart(tb testing.TB) {
	tb.Helper()
	cmd := exec.Command(d.program, append([]string{"serve", "--grpc-addr=" + d.GRPC, "--http-addr=" + d.HTTP, "--admin-addr=" + d.Admin, "--log-format=json"}, d.flags...)...) //nolint:gosec // the test says what to run
	cmd.Dir = d.dir
	log, err := cmd.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("clienttest: starting ratelimitd: %v", err)
	}
	d.process, d.ended = cmd.Process, make(chan struct{})
	slow := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer slow.Stop()
	printed, serving := d.awaitServing(log)
	go func(ended chan struct{}) {
		_, _ = io.Copy(io.Discard, log)
		_ = cmd.Wait()
		close(ended)
	}(d.ended)
	if !serving {
		tb.Fatalf("clienttest: ratelimitd serve does not serve:\n%s", printed)
	}
}

// awaitServing reads the log until it says where d serves.
func (d *Daemon) awaitServing(log io.Reader) (printed string, serving bool) {
	var all strings.Builder
	for lines := bufio.NewScanner(log); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		var line struct{ Msg, GRPC, HTTP, Admin string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			d.GRPC, d.HTTP, d.Admin = line.GRPC, line.HTTP, line.Admin
			return "", true
		}
	}
	return all.String(), false
}

// Advance turns the clock of d on.
func (d *Daemon) Advance(tb testing.TB, by time.Duration) {
	tb.Helper()
	if err := d.turn(by.String()); err != nil {
		tb.Fatalf("clienttest: turning the clock: %v", err)
	}
}

func (d *Daemon) turn(by string) error {
	response, err := http.Post("http://"+d.Admin+"/test-clock?advance="+url.QueryEscape(by), "", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	says, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, says)
	}
	return err
}

// Stop has d end what is under way, and waits until it has ended.
func (d *Daemon) Stop() { d.end(os.Interrupt) }

// Kill ends d at once.
func (d *Daemon) Kill() { d.end(os.Kill) }

// Signal sends d a signal.
func (d *Daemon) Signal(s os.Signal) error { return d.process.Signal(s) }

func (d *Daemon) end(how os.Signal) {
	if d.process == nil {
		return
	}
	_ = d.process.Signal(how) // it may have ended
	slow := time.AfterFunc(patience, func() { _ = d.process.Kill() })
	defer slow.Stop()
	<-d.ended
}
