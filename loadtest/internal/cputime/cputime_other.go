//go:build !linux

// Package cputime reads how much processor time processes have used. It works only on
// Linux.
package cputime

import (
	"errors"
	"time"
)

var errLinux = errors.New("processor times can be read only on Linux")

// Of returns an error.
func Of(int) (time.Duration, error) { return 0, errLinux }

// Stolen returns an error.
func Stolen() (stolen, all uint64, err error) { return 0, 0, errLinux }

// Listener returns an error.
func Listener(int) (int, error) { return 0, errLinux }
