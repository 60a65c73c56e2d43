package respapi

import (
	"sync/atomic"
)

// A command is one of those that the server knows.
type command uint8

// The commands.
const (
	unknown command = iota
	allow
	byPolicy
	reset
	reserve
	commit
	cancel
	cellThrottle
	crabThrottle
	ping
	echo
	hello
	login
	client
	commands
	info
	selectDatabase
	resetConnection
	quit
	numCommands
)

// A description says what a command is, as COMMAND does.
type description struct {
	name  string
	least int  // how many arguments it has at least, with its own name
	most  int  // 0: as many as there may be
	open  bool // whether it is answered before anybody knows who asks
	asks  bool // whether it asks the core
	key   int  // which argument says whom the command is about; 0: none
	usage string
}

var descriptions = [numCommands]description{
	unknown:      {name: "unknown"},
	allow:        {name: "RL.ALLOW", least: 4, asks: true, key: 2, usage: "RL.ALLOW namespace identifier rate [STRATEGY s] [BURST n] [NAME x] [LIMIT rate ...] [COST n] [MODE take|charge|refund] [DRY], such as RL.ALLOW checkout user:42 100/min"},
	byPolicy:     {name: "RL.POLICY", least: 4, asks: true, key: 3, usage: "RL.POLICY namespace policy identifier [COST n] [MODE take|charge|refund] [DRY], such as RL.POLICY checkout default user:42"},
	reset:        {name: "RL.RESET", least: 4, asks: true, key: 2, usage: "RL.RESET namespace identifier rate ... or RL.RESET namespace identifier POLICY name, such as RL.RESET checkout user:42 100/min"},
	reserve:      {name: "RL.RESERVE", least: 4, asks: true, key: 2, usage: "RL.RESERVE namespace identifier rate ... COST n or RL.RESERVE namespace identifier POLICY name COST n, such as RL.RESERVE llm user:42 1000/h COST 500"},
	commit:       {name: "RL.COMMIT", least: 3, most: 3, asks: true, usage: "RL.COMMIT reservation actual, such as RL.COMMIT AQ... 420"},
	cancel:       {name: "RL.CANCEL", least: 2, most: 2, asks: true, usage: "RL.CANCEL reservation, such as RL.CANCEL AQ..."},
	cellThrottle: {name: "CL.THROTTLE", least: 5, most: 6, asks: true, key: 1, usage: "CL.THROTTLE key max_burst count period [quantity], such as CL.THROTTLE user:42 15 30 60"},
	crabThrottle: {name: "THROTTLE", least: 5, most: 6, asks: true, key: 1, usage: "THROTTLE key max_burst count period [quantity], such as THROTTLE user:42 10 100 60"},

	ping:            {name: "PING", least: 1, most: 2, open: true, usage: "PING [message]"},
	echo:            {name: "ECHO", least: 2, most: 2, usage: "ECHO message"},
	hello:           {name: "HELLO", least: 1, open: true, usage: "HELLO [2|3] [AUTH user token] [SETNAME name], such as HELLO 3"},
	login:           {name: "AUTH", least: 2, most: 3, open: true, usage: "AUTH [user] token"},
	client:          {name: "CLIENT", least: 2, usage: "CLIENT ID, CLIENT SETNAME name or CLIENT SETINFO attribute value"},
	commands:        {name: "COMMAND", least: 1, usage: "COMMAND [COUNT|DOCS|INFO ...]"},
	info:            {name: "INFO", least: 1, usage: "INFO [section]"},
	selectDatabase:  {name: "SELECT", least: 2, most: 2, usage: "SELECT 0"},
	resetConnection: {name: "RESET", least: 1, most: 1, open: true, usage: "RESET"},
	quit:            {name: "QUIT", least: 1, open: true, usage: "QUIT"},
}

// byName finds commands.
var byName = func() map[string]command {
	all := map[string]command{}
	for c := unknown + 1; c < numCommands; c++ {
		all[descriptions[c].name] = c
	}
	return all
}()

// commandOf returns the command that has a name, in any case.
func commandOf(name string) command {
	var upper [16]byte // longer than any
	if len(name) > len(upper) {
		return unknown
	}
	for i := range len(name) {
		c := name[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	return byName[string(upper[:len(name)])]
}

// A commandCount is how often commands were answered, and how often with an error.
type commandCounts [numCommands][2]atomic.Uint64

// A tally counts the commands of a turn. Those that follow one another are mostly alike,
// so that few atomic operations do.
type tally struct {
	command command
	failed  bool
	n       uint64
}

// add counts a command.
func (t *tally) add(to *commandCounts, c command, failed bool) {
	if t.n > 0 && (t.command != c || t.failed != failed) {
		t.flush(to)
	}
	t.command, t.failed = c, failed
	t.n++
}

func (t *tally) flush(to *commandCounts) {
	if t.n == 0 {
		return
	}
	result := 0
	if t.failed {
		result = 1
	}
	to[t.command][result].Add(t.n)
	t.n = 0
}
