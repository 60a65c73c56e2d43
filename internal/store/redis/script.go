package redis

import (
	"crypto/sha1" //nolint:gosec // the name by which Redis knows a script, not a secret
	_ "embed"
	"encoding/hex"
)

//go:embed decide.lua
var decideBody string

// serverClock sets the variables that decide.lua expects, from the clock of the
// server. Tests replace it by a clock of their own.
const serverClock = `local clock = redis.call('TIME')
local now, slack = clock[1] * 1000000 + clock[2], 1
`

// A script is a Lua script and the hash by which Redis knows it.
type script struct{ source, hash string }

func newScript(clock string) script {
	source := clock + decideBody
	sum := sha1.Sum([]byte(source)) //nolint:gosec // as above
	return script{source, hex.EncodeToString(sum[:])}
}
