// Package fault says what callers are told when they get no decision: it holds
// all there is of the mapping from errors to gRPC codes and HTTP statuses.
package fault

import (
	"errors"
	"net/http"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/store"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// Errors of calls, beside those of the core. They are gRPC statuses.
var (
	// ErrStopping is that of a stream which the server ends because it stops. That it says
	// when to ask again tells clients that what has no answer was not decided.
	ErrStopping = again(codes.Unavailable, "the server is stopping; connect again", 0).Err()
	// ErrStreamAge is that of a stream which the server ends because it is old.
	ErrStreamAge = again(codes.Unavailable, "the stream has reached its age; connect again", 0).Err()
	// ErrTooManyCalls is that of a call which is one too many.
	ErrTooManyCalls = again(codes.ResourceExhausted, "too many calls are under way; ask again in 1s, or raise --max-calls", time.Second).Err()
	// ErrTooManyBytes is that of a request whose body is more than there is room for.
	ErrTooManyBytes = again(codes.ResourceExhausted, "calls hold as many bytes as they may; ask again in 1s, or raise --max-bytes-in-flight", time.Second).Err()
	// ErrBusy is that of a large body whose turn does not come in time.
	ErrBusy = again(codes.ResourceExhausted, "too many large bodies wait to be decided; ask again in 1s, or send smaller ones", time.Second).Err()
	// ErrNoMessage is that of a stream which has brought no message in time.
	ErrNoMessage = status.Error(codes.DeadlineExceeded, "no message has arrived in time; send one as soon as the stream is open")
	// ErrAwaited is that of a call to limits which have not come yet.
	ErrAwaited = status.Error(codes.Unavailable, "no limits have come from the xDS server yet; ask again")
	// ErrPanicked is that of a call whose handling panicked.
	ErrPanicked = status.Error(codes.Internal, "internal error: see the server's log")
)

// Status returns err, which may be nil, as a gRPC status. What is none, and no
// error of the core, is INTERNAL.
func Status(err error) *status.Status {
	if invalid, ok := errors.AsType[*decide.InvalidError](err); ok {
		return invalidArgument(invalid)
	}
	if overload, ok := errors.AsType[*store.Overload](err); ok {
		return again(codes.ResourceExhausted, err.Error(), overload.RetryAfter)
	}
	for _, known := range []struct {
		err  error
		code codes.Code
	}{
		{decide.ErrUnknownPolicy, codes.NotFound},
		{auth.ErrUnauthenticated, codes.Unauthenticated},
		{auth.ErrForbidden, codes.PermissionDenied},
		{decide.ErrExpired, codes.FailedPrecondition},
		{decide.ErrStore, codes.Unavailable},
		{decide.ErrDeadline, codes.DeadlineExceeded},
		{decide.ErrCancelled, codes.Canceled},
	} {
		if errors.Is(err, known.err) {
			return status.New(known.code, err.Error())
		}
	}
	st, ok := status.FromError(err)
	if !ok {
		return status.New(codes.Internal, err.Error())
	}
	return st
}

// Result returns the result, of one request of a batch, that says err.
func Result(err error) *ratelimitv1.ShouldAllowResult {
	return &ratelimitv1.ShouldAllowResult{Result: &ratelimitv1.ShouldAllowResult_Error{Error: Status(err).Proto()}}
}

// Error returns err, which may be nil, as an error that is a gRPC status.
func Error(err error) error { return Status(err).Err() }

// Forbidden returns err as an error that is PERMISSION_DENIED.
func Forbidden(err error) error { return status.Error(codes.PermissionDenied, err.Error()) }

// maxDetailsBytes is how long the details of an INVALID_ARGUMENT are. Clients
// take a status from the trailers of a reply, and refuse trailers that are
// longer than they allow: often 8 KiB in all, with the details twice, as text
// and as bytes in base64.
const maxDetailsBytes = 3000

func invalidArgument(invalid *decide.InvalidError) *status.Status {
	details := &errdetails.BadRequest{}
	bytes := 0
	for _, v := range invalid.Violations {
		if bytes += len(v.Field) + len(v.Problem); bytes > maxDetailsBytes && details.FieldViolations != nil {
			break
		}
		details.FieldViolations = append(details.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Problem})
	}
	st := status.New(codes.InvalidArgument, invalid.Error())
	if detailed, err := st.WithDetails(details); err == nil { // or else the details cannot be encoded
		return detailed
	}
	return st
}

// again returns a status that says when to ask again.
func again(code codes.Code, text string, retryAfter time.Duration) *status.Status {
	st := status.New(code, text)
	if detailed, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}); err == nil {
		return detailed
	}
	return st
}

// RetryAfter returns when the caller that is told st should ask again, if st says so.
func RetryAfter(st *status.Status) (after time.Duration, ok bool) {
	for _, detail := range st.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// HTTPCode returns the HTTP status for a gRPC code.
func HTTPCode(code codes.Code) int {
	switch code {
	case codes.OK:
		return http.StatusOK
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.FailedPrecondition: // what a reservation is that has expired
		return http.StatusGone
	case codes.Unavailable, codes.ResourceExhausted: // not 429, which is what a denial is
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.Canceled:
		return 499 // as proxies log a client that went away; nobody reads it
	default:
		return http.StatusInternalServerError
	}
}

// RESPCode returns the word that an error over the protocol of Redis begins with. Clients
// know some of them; none is one at which they ask again by themselves.
func RESPCode(code codes.Code) string {
	switch code {
	case codes.InvalidArgument:
		return "ERR"
	case codes.Unauthenticated:
		return "NOAUTH"
	case codes.PermissionDenied:
		return "NOPERM"
	case codes.NotFound:
		return "NOTFOUND"
	case codes.FailedPrecondition: // what a reservation is that has expired
		return "EXPIRED"
	case codes.Unavailable:
		return "UNAVAILABLE"
	case codes.ResourceExhausted:
		return "OVERLOADED"
	case codes.DeadlineExceeded:
		return "TIMEOUT"
	case codes.Canceled:
		return "CANCELLED"
	default:
		return "INTERNAL"
	}
}
