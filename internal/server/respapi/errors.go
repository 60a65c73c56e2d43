package respapi

import (
	"errors"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
)

// A replyError is an error whose text begins with its code.
type replyError string

// Error returns the text.
func (e replyError) Error() string { return string(e) }

const errNoPasswords = replyError("ERR AUTH: this server knows no clients, so nobody needs a token; leave it out, or start the server with --auth-file")

// unknownCommand returns the error of a command that there is not.
func unknownCommand(name string) error {
	return replyError("ERR unknown command " + quote.Cut(name) + "; use RL.ALLOW, RL.POLICY, RL.RESET, RL.RESERVE, RL.COMMIT, RL.CANCEL, CL.THROTTLE or THROTTLE: see docs/resp.md")
}

// appendError appends err as a reply.
func appendError(b []byte, err error) []byte {
	text := ""
	if e, ok := errors.AsType[replyError](err); ok {
		text = string(e)
	} else if e, ok := errors.AsType[protocolError](err); ok {
		text = "ERR " + e.Error()
	} else {
		st := fault.Status(err)
		text = fault.RESPCode(st.Code()) + " " + st.Message()
	}
	b = append(b, '-')
	b = append(b, quote.Error(errors.New(text)).Error()...)
	return append(b, "\r\n"...)
}
