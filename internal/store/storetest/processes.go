package storetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// racerAddr is the environment variable that makes a test binary one of the processes
// of RaceProcesses.
const racerAddr = "RATELIMITD_TEST_RACER_ADDR"

const (
	racers      = 4
	racePermits = 100
)

// Race is for the TestMain of a store that processes share. In a process that
// RaceProcesses has started, it opens the store at an address, does that process's part
// and returns true.
func Race(open func(addr string) (store.Store, error)) bool {
	addr := os.Getenv(racerAddr)
	if addr == "" {
		return false
	}
	s, err := open(addr)
	if err != nil {
		panic(err)
	}
	defer s.Close()
	for _, strat := range strategy.All {
		fmt.Println(race(s, strat))
	}
	return true
}

// race asks racePermits times for one unit of a limit of racePermits, and returns how
// often it was allowed. The period is a year, so that it does not end meanwhile.
func race(s store.Store, strat strategy.Strategy) (allowed int) {
	spec := strategy.Spec{Rate: fmt.Sprintf("%d/366d", racePermits), Strategy: strat}
	if strat == strategy.GCRA {
		spec.Burst = racePermits
	}
	l, wrong := strategy.NewLimit(spec, strategy.DefaultMaxLogCount)
	if wrong != nil {
		panic(wrong)
	}
	results := make([]store.Result, 1)
	for range racePermits {
		s.Decide(context.Background(), []store.Request{{Namespace: "race", Identifier: "all", Limits: []strategy.Limit{l}, Cost: 1}}, results)
		if results[0].Err != nil {
			panic(results[0].Err)
		}
		if results[0].Allowed {
			allowed++
		}
	}
	return allowed
}

// RaceProcesses starts several processes that share the counters at addr and race for
// one limit of each strategy. Exactly as many requests must get through as the limit
// permits.
func RaceProcesses(t *testing.T, addr string) {
	t.Helper()
	outputs := make([][]byte, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), racerAddr+"="+addr)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v\n%s", i, err, out)
			}
			outputs[i] = out
		})
	}
	wg.Wait()
	for i, strat := range strategy.All {
		allowed := 0
		for _, out := range outputs {
			if counts := strings.Fields(string(out)); len(counts) == len(strategy.All) {
				n, _ := strconv.Atoi(counts[i])
				allowed += n
			}
		}
		if allowed != racePermits {
			t.Errorf("%s: %d requests of %d processes got through, want %d", strat, allowed, racers, racePermits)
		}
	}
}
