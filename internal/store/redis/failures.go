package redis

import (
	"errors"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// errAgain is the error of a connection that was given up before anything was asked on
// it, because of what its server said. The next one begins in another way.
var errAgain = errors.New("the server is not what it was; ask it again")

var (
	errClosed  = errors.New("the store is closed")
	errNothing = errors.New("nobody waits for an answer")
	// errApart is the error of a command that the server did not run, because it does
	// not have all of its keys.
	errApart = errors.New("the keys are on several servers")
)

// isReply reports whether err is an error reply of a server. Otherwise there was no
// reply.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// isApart reports whether a server has refused a script because it does not have all of
// its keys. It has not run it. Proxies have words of their own for it.
func isApart(err error) bool {
	return isReply(err) && (redis.HasErrorPrefix(err, "CROSSSLOT") || strings.Contains(err.Error(), "same slot"))
}

// refusesHash reports whether a server has refused EVALSHA as a command, and so has not
// run it.
func refusesHash(err error) bool {
	return isReply(err) && (redis.IsPermissionError(err) || strings.Contains(err.Error(), "unknown command")) &&
		strings.Contains(strings.ToLower(err.Error()), "evalsha")
}

// isUnwell reports whether a server says that it does no work now, whatever it is asked:
// that says nothing of whose keys it has.
func isUnwell(err error) bool {
	return redis.IsAuthError(err) || slices.ContainsFunc([]string{
		"READONLY", "OOM", "LOADING", "MASTERDOWN", "NOREPLICAS", "MISCONF", "BUSY", "DENIED",
	}, func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) }) || strings.Contains(err.Error(), "max number of clients")
}

var (
	errForeign = errors.New("WRONGTYPE")
	errDamaged = errors.New("a value that was corrupt")
)
