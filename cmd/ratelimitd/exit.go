package main

import "errors"

// version is set when a release is built.
var version string

const (
	exitOK = iota
	exitNo // denied, invalid
	exitError
)

// errNo is what a command returns whose answer, already printed, is no.
var errNo = errors.New("no")
