package config

import (
	"fmt"
	"time"
)

// A check collects what is wrong with a Config.
type check struct {
	c     *Config
	found int     // how many problems
	wrong []error // those that the file of --config does not keep
}

// problem adds what is wrong with the value of a flag.
func (k *check) problem(flag, format string, args ...any) {
	k.found++
	if err := k.c.flags.Problem(flag, fmt.Sprintf(format, args...)); err != nil {
		k.wrong = append(k.wrong, err)
	}
}

// must adds that a value is to be something else, unless it is ok.
func (k *check) must(ok bool, flag string, value any, be string) {
	if !ok {
		k.problem(flag, " %v: must be %s", value, be)
	}
}

func (k *check) duration(flag string, d time.Duration, example string) {
	k.must(d > 0, flag, d, "above 0, such as "+example)
}

func (k *check) option(flag string, err error) bool {
	if err != nil {
		k.problem(flag, ": %v", err)
	}
	return err == nil
}
