// Package auth says who asks, and what he may do. A Directory lists the clients
// of the daemon: it finds the Caller that a bearer token or a client certificate
// belongs to, and the Caller knows which namespaces, policies and operations are
// his.
//
// The package knows no transport. The server's chain finds the Caller and puts it
// into the context of the call; the core asks the Caller about each request.
package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// An Operation is a kind of thing that a caller may do.
type Operation uint8

// The operations.
const (
	Decide  Operation = iota // ask whether a request is allowed, which may consume
	Charge                   // report what was consumed already
	Refund                   // give back what was consumed
	Reset                    // forget what an identifier has consumed
	Inspect                  // read the configuration and the metrics
	Admin                    // use the admin port
)

// Operations are the names of the operations, as files and messages have them.
var Operations = []string{"decide", "charge", "refund", "reset", "inspect", "admin"}

// String returns the name of o.
func (o Operation) String() string { return Operations[o] }

// A set is some operations, one bit each.
type set uint16

func setOf(operations ...Operation) (s set) {
	for _, o := range operations {
		s |= 1 << o
	}
	return s
}

func (s set) has(o Operation) bool { return s&(1<<o) != 0 }

// Why a call or a request is refused. These are wrapped by the errors.
var (
	// ErrUnauthenticated says that nobody knows who asks.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrForbidden says that the caller is known, and may not do this.
	ErrForbidden = errors.New("not permitted")
)

// A Caller is a client that asks, and what it may do. It does not change, so it is
// safe for concurrent use. The nil Caller is nobody, and may do nothing.
type Caller struct {
	name       string // "" without authentication
	namespaces names
	policies   names
	operations set
	share      int // 0: none of its own
}

// Anonymous returns the Caller of all calls to a daemon that knows no clients. It
// may do some operations, in every namespace.
func Anonymous(operations ...Operation) *Caller {
	return &Caller{namespaces: all, policies: all, operations: setOf(operations...)}
}

// Name returns the name of the client. It is "" for the anonymous Caller.
func (c *Caller) Name() string { return c.name }

// Share returns how many shares the client has of a store that is asked for more than
// it can do: most clients have one. It is 0 if c is no client by name.
func (c *Caller) Share() int { return c.share }

// Check reports why c may not do o with a policy of a namespace, or nil. A request
// that names no policy, because it brings its own limits, has the policy "". What is
// about the whole daemon has the namespace "" and the policy "". Only the pattern *
// matches these.
func (c *Caller) Check(o Operation, namespace, policy string) error {
	switch {
	case c == nil:
		return &Refusal{Reason: NoCredentials}
	case !c.operations.has(o):
		return &Refusal{ForbiddenOperation, c.forbidden(o, namespace, "")}
	case !c.namespaces.match(namespace):
		return &Refusal{ForbiddenNamespace, c.forbidden(o, namespace, "")}
	case !c.policies.match(policy):
		return &Refusal{ForbiddenPolicy, c.forbidden(o, namespace, policy)}
	}
	return nil
}

// forbidden says what c may not do.
func (c *Caller) forbidden(o Operation, namespace, policy string) string {
	if c.name == "" {
		return fmt.Sprintf("operation %s is not open to everybody who reaches this address; %s", o, openers[o])
	}
	text := fmt.Sprintf("client %s has no permission for operation %s", quote.Cut(c.name), o)
	if namespace != "" {
		text += " in namespace " + quote.Cut(namespace)
	}
	if policy != "" {
		text += " with policy " + quote.Cut(policy)
	}
	return text + "; see the server's --auth-file"
}

// openers say what makes an operation available that strangers may not do.
var openers = map[Operation]string{
	Reset:   "start the daemon with --auth-file, or with --allow-reset",
	Inspect: "start the daemon with --auth-file, or ask its admin port",
	Admin:   "start the daemon with --auth-file, or with --admin-addr=127.0.0.1:6070",
}

// A Refusal is the error of a call or a request that is refused because of who
// asks. It wraps ErrUnauthenticated or ErrForbidden.
type Refusal struct {
	Reason Reason
	text   string // "": that of Reason
}

// Error says what is missing.
func (r *Refusal) Error() string {
	if r.text == "" {
		return reasons[r.Reason].text
	}
	return r.text
}

// Unwrap returns ErrUnauthenticated or ErrForbidden.
func (r *Refusal) Unwrap() error {
	if r.Reason <= lastUnauthenticated {
		return ErrUnauthenticated
	}
	return ErrForbidden
}

// Refuse returns a Refusal with a text of its own.
func Refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{reason, fmt.Sprintf(format, args...)}
}

type contextKey struct{}

// A callerContext is a context that knows the caller: one allocation, and found
// first by whoever looks for it.
type callerContext struct {
	context.Context
	caller *Caller
}

// Value implements context.Context.
func (c *callerContext) Value(key any) any {
	if key == (contextKey{}) {
		return c.caller
	}
	return c.Context.Value(key)
}

// NewContext returns a context of a call that c makes.
func NewContext(ctx context.Context, c *Caller) context.Context {
	return &callerContext{ctx, c}
}

// Direct is FromContext for a context that NewContext has just returned. For any other it
// returns nil, without a look at what is in it.
func Direct(ctx context.Context) *Caller {
	if c, ok := ctx.(*callerContext); ok {
		return c.caller
	}
	return nil
}

// FromContext returns who makes a call, or nil if nobody has said.
func FromContext(ctx context.Context) *Caller {
	c, _ := ctx.Value(contextKey{}).(*Caller)
	return c
}
