package attack

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

var (
	large   = flag.Bool("large", false, "run the large attacks")
	verbose = flag.Bool("daemon-log", false, "print the log of the daemons")
)

// size returns the first number for a small attack and the second for a large one.
func size(small, big int) int {
	if *large {
		return big
	}
	return small
}

// An attack is what one hostile caller does.
type attack struct {
	name string
	// prepare says what daemon to attack. nil: the default one.
	prepare func(t *testing.T) setup
	// do attacks. It returns when it has done all, or when the context ends. What it
	// reports to t is an answer that no hostile caller should get.
	do func(ctx context.Context, t *testing.T, d *daemon)
}

const (
	// longest is how long one attack may go on.
	longest = 3 * time.Minute
	// tooLong is a wait that no attack may cause to an innocent caller.
	tooLong = 100 * time.Millisecond
	// mostLogged is how many bytes an attack may have the daemon log.
	mostLogged = 256 << 10
)

// attacks are all of them. The first attacks nothing, to see how long a caller waits on this
// machine anyway.
func attacks() []attack {
	all := []attack{{name: "none", do: func(ctx context.Context, _ *testing.T, _ *daemon) {
		pause(ctx, time.Duration(size(1, 5))*time.Second)
	}}}
	for _, kind := range [][]attack{messageAttacks(), connectionAttacks(), inFlightAttacks(), frameAttacks(), httpAttacks(), redisAttacks(), nameAttacks(), operatorAttacks(), trustAttacks(), guessAttacks(), storeAttacks()} {
		all = append(all, kind...)
	}
	return all
}

func TestMain(m *testing.M) {
	if os.Getenv(asInnocent) != "" {
		if err := beInnocent(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	dir, err := os.MkdirTemp("", "attack")
	if err == nil {
		err = build(dir)
	}
	redistest.StartProcess = startProcess
	if err == nil && *large { // the small form shares the machine with other tests, and judges no wait
		err = giveWay()
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		inMain(func() { code = m.Run() })
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// TestAttacks runs each attack against a daemon of its own.
func TestAttacks(t *testing.T) {
	const line = "%-30s %7s %8s %13s %6s  %s\n"
	fmt.Printf(line, "attack", "took", "peak MB", "innocent p99", "exact", "daemon")
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			o := a.run(t)
			fmt.Printf(line, a.name, o.took.Round(100*time.Millisecond), strconv.FormatInt(o.peak>>20, 10), o.P99.Round(100*time.Microsecond), strconv.FormatBool(o.exact), o.fate)
		})
	}
}

// An outcome is a line of the table.
type outcome struct {
	report
	took  time.Duration
	peak  int64 // bytes
	exact bool  // whether the innocent caller could do what its limit says
	fate  string
}

// run attacks, and reports to t what has fallen.
func (a *attack) run(t *testing.T) (o outcome) {
	var s setup
	if a.prepare != nil {
		s = a.prepare(t)
	}
	d := start(t, s)
	caller := startInnocent(t, errand{d.GRPC, d.HTTP, s.credentials, innocentLimit()})
	before := d.goroutines(t)
	ctx, cancel := context.WithTimeout(t.Context(), longest)
	defer cancel()
	begin := time.Now()
	a.do(ctx, t, d)
	o.took = time.Since(begin)
	if ctx.Err() != nil {
		t.Errorf("the attack is not over after %v", longest)
	}
	var err error
	if o.report, err = caller.end(); err != nil || o.Problem != "" {
		t.Errorf("the innocent caller: %v, %s", err, o.Problem)
	}
	if o.exact = o.Allowed == innocentLimit() && o.Problem == ""; !o.exact {
		t.Errorf("the innocent caller may do %d of %d calls, want %d", o.Allowed, o.Asked, innocentLimit())
	}
	if *large && o.P99 > tooLong {
		t.Errorf("the innocent caller waits %v, want at most %v", o.P99, tooLong)
	}
	if n := d.panics(t); n != "0" {
		t.Errorf("%s panics", n)
	}
	d.calmsDown(t, before)
	if n := d.logged.Load(); n > mostLogged {
		t.Errorf("the daemon logs %d bytes, want at most %d", n, mostLogged)
	}
	o.fate = "survived"
	if err := d.stop(); err != nil {
		t.Errorf("the daemon has fallen: %v", err)
		o.fate = err.Error()
	}
	o.peak = d.peak.Load()
	if most := int64(size(smallMB, memoryMB)) << 20; o.peak > most {
		t.Errorf("the daemon took %d MB, want at most %d", o.peak>>20, most>>20)
	}
	return o
}

// together runs do so often, in so many goroutines, or until the context ends.
func together(ctx context.Context, workers, times int, do func(i int)) {
	var running sync.WaitGroup
	next := make(chan int)
	for range workers {
		running.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := 0; i < times && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	running.Wait()
}
