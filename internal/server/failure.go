package server

import (
	"log/slog"
	"sync/atomic"
)

// OnError is the failure policy: what is answered when the store has failed.
type OnError string

// The failure policies.
const (
	FailAllow OnError = "allow" // fail open
	FailDeny  OnError = "deny"  // fail closed
	FailError OnError = "error" // UNAVAILABLE
)

// A failure remembers whether the store is failing, so that the log has one
// line when that begins and one when it ends.
type failure struct{ failing atomic.Bool }

func (f *failure) failed(log *slog.Logger, policy OnError, err error) {
	if !f.failing.Load() && f.failing.CompareAndSwap(false, true) {
		log.Error("the store fails; until it is back, requests it can not decide are answered by the failure policy: check that it runs and can be reached",
			"error", err, "on_error", string(policy))
	}
}

func (f *failure) recovered(log *slog.Logger) {
	if f.failing.Load() && f.failing.CompareAndSwap(true, false) {
		log.Info("the store is back")
	}
}
