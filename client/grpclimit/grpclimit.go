// Package grpclimit is interceptors for gRPC servers that hold calls to limits of
// ratelimitd.
//
//	limits := grpclimit.Limit(limiter, grpclimit.ClientAddress())
//	server := grpc.NewServer(grpc.UnaryInterceptor(limits.Unary), grpc.StreamInterceptor(limits.Stream))
//
// A call that is denied fails with RESOURCE_EXHAUSTED and a google.rpc.RetryInfo. The
// trailers of each call have ratelimit, ratelimit-policy and retry-after, as HTTP has them.
package grpclimit

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/internal/fields"
	"github.com/ratelimitd/ratelimitd/client/internal/identity"
	"github.com/ratelimitd/ratelimitd/client/internal/steps"
)

// Options say which calls are held to which limits.
type Options struct {
	// Rules are looked at in order. The first that matches a call holds; a call that none
	// matches has no limit.
	Rules []Rule
	// Shadow asks, and denies nobody: to try limits out. Trailers say nothing of them.
	Shadow bool
	// OnResult is told each result, for metrics and logs. Nil is nobody.
	OnResult func(ctx context.Context, fullMethod string, l *client.Limiter, result client.Result)
}

// A Rule is the limits of some calls.
type Rule struct {
	// Method is exactly that of the calls, "/package.Service/Method", or all of a service,
	// "/package.Service/". "" is all.
	Method string
	// PerMessage holds each message that a client sends on a stream to the limits, and not
	// the call as a whole.
	PerMessage bool
	// By finds the identifier for each of the Steps that has no By of its own. It is called
	// once for a call.
	By Identifier
	// Steps are asked in order, and the first that denies answers. What those before it
	// have taken is not given back: put first what denies most for the least.
	Steps []Step
}

// A Step is a limiter that a call goes through.
type Step struct {
	Limiter *client.Limiter
	By      Identifier // nil: that of the Rule
	Cost    Cost       // nil: 1
}

// An Identifier finds who makes a call. client.Exempt is somebody who has no limit. All for
// whom it is "" share one identifier, "anonymous".
type Identifier func(ctx context.Context) string

// A Cost finds what a call, or a message, costs. The message is that of a unary call, or of
// a stream under PerMessage; it is nil for a stream as a whole.
type Cost func(ctx context.Context, message any) uint64

// Header identifies callers by the value of a key of the metadata. Use it for a key that a
// proxy of yours sets: a caller could send what he likes.
func Header(key string) Identifier {
	return func(ctx context.Context) string { return first(ctx, key) }
}

// APIKey identifies callers by the key in the metadata. The daemon is told a hash of it.
func APIKey(key string) Identifier {
	return func(ctx context.Context) string { return identity.APIKey(first(ctx, key)) }
}

// BearerSubject identifies callers by the subject of the JWT in authorization, or by the
// hash of a token that is not a JWT. It does not verify the token: put it behind what does.
func BearerSubject() Identifier {
	return func(ctx context.Context) string { return identity.BearerSubject(first(ctx, "authorization")) }
}

// ClientAddress identifies callers by their IP address, and with IPv6 by its network of 64
// bits. Behind proxies, name their networks, such as "10.0.0.0/8": then the address is the
// last in x-forwarded-for that is not one of theirs. It panics if a network cannot be read.
func ClientAddress(trusted ...string) Identifier {
	proxies := identity.MustTrust(trusted)
	return func(ctx context.Context) string {
		from, ok := peer.FromContext(ctx)
		if !ok {
			return ""
		}
		return proxies.ClientAddress(from.Addr.String(), metadata.ValueFromIncomingContext(ctx, "x-forwarded-for"))
	}
}

// FirstOf identifies callers by the first of all that finds something.
func FirstOf(all ...Identifier) Identifier {
	return func(ctx context.Context) string {
		for _, by := range all {
			if id := by(ctx); id != "" {
				return id
			}
		}
		return ""
	}
}

// first returns the first value of a key of the metadata, or "".
func first(ctx context.Context, key string) string {
	if values := metadata.ValueFromIncomingContext(ctx, key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Limits are interceptors. New and Limit make them.
type Limits struct{ o Options }

// Limit returns interceptors that hold all calls to one limiter.
func Limit(l *client.Limiter, by Identifier) *Limits {
	return New(Options{Rules: []Rule{{By: by, Steps: []Step{{Limiter: l}}}}})
}

// New returns interceptors. It panics if a step has no limiter or no identifier, as that is
// a mistake in the program.
func New(o Options) *Limits {
	o.Rules = slices.Clone(o.Rules)
	for i := range o.Rules {
		for _, s := range o.Rules[i].Steps {
			if s.Limiter == nil || s.By == nil && o.Rules[i].By == nil {
				panic("ratelimitd: grpclimit: each step needs a Limiter, and a By of its own or of its rule")
			}
		}
	}
	return &Limits{o}
}

func (l *Limits) ruleOf(method string) *Rule {
	for i := range l.o.Rules {
		rule := &l.o.Rules[i]
		if rule.Method == "" || rule.Method == method || strings.HasSuffix(rule.Method, "/") && strings.HasPrefix(method, rule.Method) {
			return rule
		}
	}
	return nil
}

// Unary is a grpc.UnaryServerInterceptor.
func (l *Limits) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	rule := l.ruleOf(info.FullMethod)
	if rule == nil {
		return handler(ctx, request)
	}
	c := l.callOf(ctx, info.FullMethod, rule)
	err := c.ask(request, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }) // it fails without a call alone
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// Stream is a grpc.StreamServerInterceptor.
func (l *Limits) Stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	rule := l.ruleOf(info.FullMethod)
	if rule == nil {
		return handler(server, stream)
	}
	c := l.callOf(stream.Context(), info.FullMethod, rule)
	if rule.PerMessage {
		return handler(server, &limitedStream{stream, c})
	}
	if err := c.ask(nil, stream.SetTrailer); err != nil {
		return err
	}
	return handler(server, stream)
}

// A limitedStream holds each message of a client to limits.
type limitedStream struct {
	grpc.ServerStream
	call *call
}

// RecvMsg implements grpc.ServerStream.
func (s *limitedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.call.ask(m, s.SetTrailer)
}

// A call is one call, with the identifiers that were found for it.
type call struct {
	limits *Limits
	ctx    context.Context //nolint:containedctx // it is that of the call
	method string
	rule   *Rule
	ids    []string // of each step
}

func (l *Limits) callOf(ctx context.Context, method string, rule *Rule) *call {
	c := &call{limits: l, ctx: ctx, method: method, rule: rule, ids: make([]string, len(rule.Steps))}
	common, found := "", false
	for i, s := range rule.Steps {
		switch {
		case s.By != nil:
			c.ids[i] = s.By(ctx)
		case found:
			c.ids[i] = common
		default:
			common, found = rule.By(ctx), true
			c.ids[i] = common
		}
		if c.ids[i] == "" {
			c.ids[i] = identity.Anonymous
		}
	}
	return c
}

// ask asks the limiters of c, for a message. The error is that of a denial, or of the
// context.
func (c *call) ask(message any, setTrailer func(metadata.MD)) error {
	o := &c.limits.o
	asked := make([]steps.Step, len(c.rule.Steps))
	for i, s := range c.rule.Steps {
		asked[i] = steps.Step{Limiter: s.Limiter, Identifier: c.ids[i], Cost: 1}
		if s.Cost != nil {
			asked[i].Cost = s.Cost(c.ctx, message)
		}
	}
	var tell func(*client.Limiter, client.Result)
	if o.OnResult != nil {
		tell = func(l *client.Limiter, result client.Result) { o.OnResult(c.ctx, c.method, l, result) }
	}
	all, denied := steps.Ask(c.ctx, asked, o.Shadow, tell)
	if o.Shadow {
		return nil
	}
	set := fields.Of(all)
	md := metadata.MD{}
	for name, value := range map[string]string{fields.RateLimit: set.RateLimit, fields.Policy: set.Policy, fields.RetryAfter: set.RetryAfter} {
		if value != "" {
			md.Set(name, value)
		}
	}
	if denied || !c.rule.PerMessage { // each message would add to the trailers
		setTrailer(md)
	}
	if denied {
		return denial(&all[len(all)-1].Result, set.Violated)
	}
	if err := steps.Hold(c.ctx, all); err != nil {
		return status.FromContextError(err).Err()
	}
	return nil
}

// denial returns the error of a call that is denied.
func denial(result *client.Result, by []string) error {
	if result.Reason == client.ReasonFailure || result.Reason == client.ReasonStoreFailure {
		return status.Error(codes.Unavailable, "the limit of this call cannot be checked")
	}
	text := "over the limit"
	if len(by) > 0 {
		text += " " + strings.Join(by, ", ")
	}
	st := status.New(codes.ResourceExhausted, text)
	if result.RetryAfter > 0 && result.RetryAfter != client.Never {
		if detailed, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(result.RetryAfter)}); err == nil { // or else it cannot be encoded
			st = detailed
		}
	}
	return st.Err()
}
