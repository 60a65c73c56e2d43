package grpcapi

import (
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// The methods whose messages are timed, as the label of their latency.
const (
	MethodUnary  = "ShouldAllow"
	MethodBatch  = "ShouldAllowBatch"
	MethodStream = "ShouldAllowStream"
)

// Options say how to make an API. All are required.
type Options struct {
	Core    *decide.Core
	Faults  *fault.Log
	Latency *histogram.Vec // by method

	Streams  *sync.WaitGroup // counts the goroutines that answer streams
	Draining <-chan struct{} // closed when the server begins to stop, which ends streams
	Bounds   config.Bounds
	Turns    *turns.Turns // of large batches
}
