package main

import (
	"cmp"

	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
)

// A benchCase compares a subject with a baseline under one load.
type benchCase struct {
	name              string
	load              runCmd
	baseline, subject program
}

// envoyLoad is load with Envoy's protocol.
func envoyLoad(load runCmd) runCmd {
	load.Target, load.Namespace, load.Limit = target.Envoy, envoyDomain, []string{"1000000000/s"}
	load.Concurrency = cmp.Or(load.Concurrency, 128)
	return load
}

// respLoad is pipelines over the protocol of Redis.
func respLoad(pipeline, connections int) runCmd {
	return runCmd{Target: target.RESP, Batch: pipeline, Concurrency: connections}
}

// aloneLoad is one caller on one connection.
var aloneLoad = runCmd{Concurrency: 1, Connections: 1}

// pacedLoad is so many calls a second.
func pacedLoad(rate float64) runCmd { return runCmd{ArrivalRate: rate} }

// throttleLoad is pipelines of THROTTLE.
func throttleLoad(pipeline int) runCmd {
	return runCmd{Target: target.Throttle, Batch: pipeline, Concurrency: 8, Limit: []string{"1000000/s,gcra,burst=1000000"}}
}
