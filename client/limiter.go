package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// Exempt is the identifier of whoever has no limit: it is allowed without a call. No
// header and no address is Exempt, as it begins with a zero byte.
const Exempt = "\x00exempt"

// maxIdentifier is how many bytes an identifier may have for the daemon.
const maxIdentifier = 1024

// A Limiter holds identifiers to limits, or to a policy. Client.Limiter and Client.Policy
// make it. It is safe for concurrent use.
//
// An identifier that is longer than 1,024 bytes stands for itself by its SHA-256, and one
// that is not UTF-8 by what of it is: so that nobody gets rid of a limit by a name that the
// daemon would refuse.
type Limiter struct {
	*scope
	client  *Client
	timeout time.Duration
}

// Limiter returns a limiter that holds identifiers to limits, from 1 to 16: a call is
// allowed if each of them allows it. Make it once, and use it for all calls.
func (c *Client) Limiter(namespace string, limits ...Limit) *Limiter {
	return &Limiter{scope: newScope(namespace, limits), client: c, timeout: c.o.Timeout}
}

// Policy returns a limiter that holds identifiers to a policy of the daemon's
// configuration.
func (c *Client) Policy(namespace, policy string) *Limiter {
	return &Limiter{scope: &scope{namespace: namespace, policy: policy}, client: c, timeout: c.o.Timeout}
}

// Timeout returns a limiter like l whose calls wait for their answer no longer than d.
func (l *Limiter) Timeout(d time.Duration) *Limiter {
	with := *l
	with.timeout = d
	return &with
}

// Namespace returns the namespace that l is bound to.
func (l *Limiter) Namespace() string { return l.namespace }

// Limits returns the limits that l is bound to; none if it is bound to a policy. Nobody may
// change them.
func (l *Limiter) Limits() []Limit { return l.limits }

// Allow asks whether identifier may do now what costs so many units, 1 if no cost is given,
// and consumes them if it may.
//
// A denial is remembered until its RetryAfter, for a second at most, and is repeated
// without a call.
func (l *Limiter) Allow(ctx context.Context, identifier string, cost ...uint64) Result {
	return l.take(ctx, "allow", identifier, costOf(cost), false)
}

// Check is Allow, but consumes nothing. With the cost 0 it is allowed, and says what is
// left.
func (l *Limiter) Check(ctx context.Context, identifier string, cost ...uint64) Result {
	return l.take(ctx, "check", identifier, costOf(cost), true)
}

// Charge consumes what has already happened, whatever is left: it may leave debt. The
// result is allowed if it was within the limits.
func (l *Limiter) Charge(ctx context.Context, identifier string, cost uint64) Result {
	return l.report(ctx, "charge", identifier, &ratelimitv1.ShouldAllowRequest{Cost: &cost, Mode: ratelimitv1.Mode_CHARGE})
}

// Refund gives back what was consumed at an instant, the DecidedAt of its Result: it is in
// the window of then. The zero Time is just now.
func (l *Limiter) Refund(ctx context.Context, identifier string, cost uint64, consumedAt time.Time) Result {
	r := &ratelimitv1.ShouldAllowRequest{Cost: &cost, Mode: ratelimitv1.Mode_REFUND}
	if !consumedAt.IsZero() {
		r.ConsumedAt = timestamppb.New(consumedAt)
	}
	return l.report(ctx, "refund", identifier, r)
}

// Reset forgets what identifier has consumed. The daemon must permit it.
func (l *Limiter) Reset(ctx context.Context, identifier string) error {
	began := time.Now()
	id := wellFormed(identifier)
	l.forget(id)
	defer l.forget(id)
	var result Result
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	_, err := l.client.api.Reset(ctx, &ratelimitv1.ResetRequest{Namespace: l.namespace, Identifier: id, Limits: l.sent, Policy: l.policy})
	if result.Err = err; err == nil {
		result.Allowed = true
	}
	l.tell("reset", identifier, &result, began)
	return err
}

// costOf returns the cost that a caller gives, or 1.
func costOf(given []uint64) uint64 {
	switch len(given) {
	case 0:
		return 1
	case 1:
		return given[0]
	default:
		panic("ratelimitd: more than one cost")
	}
}

// take asks for a cost, and may answer from memory.
func (l *Limiter) take(ctx context.Context, operation, identifier string, cost uint64, dryRun bool) Result {
	var began time.Time
	if l.client.o.OnResult != nil {
		began = time.Now()
	}
	if identifier == Exempt {
		return l.told(operation, identifier, Result{Allowed: true, Reason: ReasonExempt}, began)
	}
	id := wellFormed(identifier)
	var when recollection
	memory := l.client.denials
	if memory != nil {
		var result Result
		var known bool
		if result, known, when = memory.recall(l.scope, id, cost); known {
			l.tell(operation, identifier, &result, began)
			return result
		}
	}
	r := &ratelimitv1.ShouldAllowRequest{Namespace: l.namespace, Identifier: id, Limits: l.sent, Policy: l.policy, DryRun: dryRun}
	if cost != 1 {
		r.Cost = new(cost)
	}
	result := l.ask(ctx, r)
	if memory != nil && !result.Allowed {
		memory.remember(l.scope, id, cost, &result, when)
	}
	return l.told(operation, identifier, result, began)
}

// report has the daemon count r, which may free identifier.
func (l *Limiter) report(ctx context.Context, operation, identifier string, r *ratelimitv1.ShouldAllowRequest) Result {
	began := time.Now()
	if identifier == Exempt {
		return l.told(operation, identifier, Result{Allowed: true, Reason: ReasonExempt}, began)
	}
	r.Namespace, r.Identifier, r.Limits, r.Policy = l.namespace, wellFormed(identifier), l.sent, l.policy
	l.forget(r.GetIdentifier())
	defer l.forget(r.GetIdentifier())
	return l.told(operation, identifier, l.ask(ctx, r), began)
}

// ask returns the answer to r, or that of the failure policy.
func (l *Limiter) ask(ctx context.Context, r *ratelimitv1.ShouldAllowRequest) Result {
	const fixed = 40 // a cost, a mode, an instant, and what tells the fields from one another
	response, err := l.client.decide(ctx, r, len(l.namespace)+len(r.GetIdentifier())+len(l.policy)+l.bytes+fixed, l.timeout)
	if err != nil {
		return l.client.failed(ctx, err)
	}
	return resultOf(response)
}

func (l *Limiter) forget(identifier string) {
	if l.client.denials != nil {
		l.client.denials.forget(l.namespace, identifier)
	}
}

// told returns result, which it tells whoever wants to know.
func (l *Limiter) told(operation, identifier string, result Result, began time.Time) Result {
	l.tell(operation, identifier, &result, began)
	return result
}

func (l *Limiter) tell(operation, identifier string, result *Result, began time.Time) {
	if tell := l.client.o.OnResult; tell != nil {
		tell(Event{Operation: operation, Namespace: l.namespace, Policy: l.policy, Identifier: identifier, Result: *result, Took: time.Since(began)})
	}
}

// wellFormed returns identifier as the daemon takes it.
func wellFormed(identifier string) string {
	if !utf8.ValidString(identifier) {
		identifier = strings.ToValidUTF8(identifier, "\uFFFD")
	}
	if len(identifier) > maxIdentifier {
		sum := sha256.Sum256([]byte(identifier))
		identifier = "sha256:" + hex.EncodeToString(sum[:])
	}
	return identifier
}
