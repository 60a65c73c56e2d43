package respapi

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// version is that of Redis whose protocol this is. Clients read it to know what they may
// send.
const version = "7.2.4"

// maxNameBytes is how long the name of a client may be.
const maxNameBytes = 128

// talk answers the commands that ask the core nothing: those that clients begin with.
func (t *turn) talk(c command) error {
	switch c {
	case ping:
		if len(t.args) == 2 {
			t.out = appendText(t.out, t.args[1])
			return nil
		}
		t.out = append(t.out, "+PONG\r\n"...)
	case echo:
		t.out = appendText(t.out, t.args[1])
	case hello:
		return t.hello()
	case login:
		if err := t.conn.login(t.args[len(t.args)-1]); err != nil {
			return wrongPassword(err)
		}
		t.out = append(t.out, replyOK...)
	case client:
		return t.client()
	case commands:
		t.commands()
	case info:
		t.out = appendText(t.out, infoText)
	case selectDatabase:
		if t.args[1] != "0" {
			return replyError("ERR SELECT " + quote.Cut(t.args[1]) + ": there is no such database; write SELECT 0")
		}
		t.out = append(t.out, replyOK...)
	case resetConnection:
		t.conn.protocol = 2
		t.conn.logout()
		t.out = append(t.out, "+RESET\r\n"...)
	default: // quit
		t.out = append(t.out, replyOK...)
		t.closing = true
	}
	return nil
}

// wrongPassword returns the error of a token that is nobody's.
func wrongPassword(err error) error {
	if err == error(errNoPasswords) { //nolint:errorlint // nothing wraps it
		return err
	}
	return replyError("WRONGPASS " + err.Error())
}

// hello answers HELLO [2|3] [AUTH user token] [SETNAME name].
func (t *turn) hello() error {
	protocol := t.conn.protocol
	args := t.args[1:]
	if len(args) > 0 {
		switch args[0] {
		case "2", "3":
			protocol = int(args[0][0] - '0')
		default:
			return replyError("NOPROTO unsupported protocol version " + quote.Cut(args[0]) + "; write HELLO 2 or HELLO 3")
		}
		args = args[1:]
	}
	for len(args) > 0 {
		switch {
		case isWord(args[0], "AUTH") && len(args) >= 3:
			if err := t.conn.login(args[2]); err != nil {
				return wrongPassword(err)
			}
			args = args[3:]
		case isWord(args[0], "SETNAME") && len(args) >= 2:
			if err := checkClientName(args[1]); err != nil {
				return err
			}
			args = args[2:]
		default:
			return replyError("ERR HELLO: " + quote.Cut(args[0]) + " is no option of it; write " + descriptions[hello].usage)
		}
	}
	if _, err := t.conn.caller(); err != nil {
		return err
	}
	t.conn.protocol = protocol
	b := appendPairs(t.out, protocol, 7)
	b = appendText(appendText(b, "server"), "ratelimitd")
	b = appendText(appendText(b, "version"), version)
	b = appendInt(appendText(b, "proto"), int64(protocol))
	b = appendInt(appendText(b, "id"), t.conn.id)
	b = appendText(appendText(b, "mode"), "standalone")
	b = appendText(appendText(b, "role"), "master")
	t.out = appendArray(appendText(b, "modules"), 0)
	return nil
}

// checkClientName returns why a client cannot be called so, or nil. The name is not kept:
// nothing shows it.
func checkClientName(name string) error {
	if len(name) > maxNameBytes || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return replyError("ERR the name of a client " + quote.Cut(name) + fmt.Sprintf(" has spaces or more than %d bytes; write one such as checkout-1", maxNameBytes))
	}
	return nil
}

// client answers the parts of CLIENT that client libraries begin with.
func (t *turn) client() error {
	switch sub := t.args[1]; {
	case isWord(sub, "ID") && len(t.args) == 2:
		t.out = appendInt(t.out, t.conn.id)
		return nil
	case isWord(sub, "SETNAME") && len(t.args) == 3:
		if err := checkClientName(t.args[2]); err != nil {
			return err
		}
	case isWord(sub, "SETINFO") && len(t.args) == 4:
	default:
		return replyError("ERR CLIENT " + quote.Cut(sub) + ": use " + descriptions[client].usage)
	}
	t.out = append(t.out, replyOK...)
	return nil
}

// commands answers COMMAND, COMMAND COUNT, COMMAND INFO and COMMAND DOCS. The last has
// nothing to say: redis-cli asks for it to complete what people type.
func (t *turn) commands() {
	sub := ""
	if len(t.args) > 1 {
		sub = strings.ToUpper(t.args[1])
	}
	switch sub {
	case "COUNT":
		t.out = appendInt(t.out, int64(numCommands-1))
	case "DOCS":
		t.out = appendPairs(t.out, t.conn.protocol, 0)
	case "INFO":
		t.out = appendArray(t.out, len(t.args)-2)
		for _, name := range t.args[2:] {
			t.out = appendDescription(t.out, t.conn.protocol, commandOf(name))
		}
	case "":
		t.out = appendArray(t.out, int(numCommands-1))
		for c := unknown + 1; c < numCommands; c++ {
			t.out = appendDescription(t.out, t.conn.protocol, c)
		}
	default: // LIST, GETKEYS and others: nobody needs them to begin
		t.out = appendArray(t.out, 0)
	}
}

// appendDescription appends what COMMAND says about a command.
func appendDescription(b []byte, protocol int, c command) []byte {
	if c == unknown {
		return appendNull(b, protocol)
	}
	d := &descriptions[c]
	arity := -d.least
	if d.most == d.least {
		arity = d.least
	}
	b = appendText(appendArray(b, 6), strings.ToLower(d.name))
	b = appendArray(appendInt(b, int64(arity)), 1)
	b = append(b, "+fast\r\n"...)
	step := 0
	if d.key > 0 {
		step = 1
	}
	return appendInt(appendInt(appendInt(b, int64(d.key)), int64(d.key)), int64(step))
}

// infoText is what INFO says. Clients look there for whether the server is loading, and
// for its version and role.
var infoText = strings.Join([]string{
	"# Server", "server_name:ratelimitd", "redis_version:" + version, "redis_mode:standalone", "",
	"# Persistence", "loading:0", "",
	"# Replication", "role:master", "connected_slaves:" + strconv.Itoa(0), "",
}, "\r\n")
