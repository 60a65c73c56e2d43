package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

// This file holds all there is of the mapping from errors to gRPC codes, and
// from those to HTTP statuses.

// violations are what is wrong with a request, by field.
type violations []*errdetails.BadRequest_FieldViolation

func (v *violations) add(field, description string) {
	*v = append(*v, &errdetails.BadRequest_FieldViolation{Field: field, Description: description})
}

// Clients take a status from the trailers of a reply, and refuse trailers that
// are longer than they allow: often 8 KiB in all, with the details twice, as
// text and as bytes in base64. So no more violations are shown than fit.
const (
	maxShown        = 3    // in the message
	maxDetailsBytes = 3000 // in the details
)

// err returns the INVALID_ARGUMENT status for v, or nil if nothing is wrong.
func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	var message strings.Builder
	message.WriteString("invalid request: ")
	bytes := 0
	for i, f := range v {
		switch {
		case i == maxShown:
			fmt.Fprintf(&message, "; and %d more", len(v)-i)
		case i < maxShown:
			if i > 0 {
				message.WriteString("; ")
			}
			message.WriteString(f.GetField() + ": " + f.GetDescription())
		}
		if bytes += len(f.GetField()) + len(f.GetDescription()); bytes > maxDetailsBytes && i > 0 {
			v = v[:i]
			break
		}
	}
	st, err := status.New(codes.InvalidArgument, message.String()).WithDetails(&errdetails.BadRequest{FieldViolations: v})
	if err != nil { // the details can not be marshalled: say it without them
		return status.Error(codes.InvalidArgument, message.String())
	}
	return st.Err()
}

// invalid returns the INVALID_ARGUMENT status for one field.
func invalid(field, description string) error {
	var v violations
	v.add(field, description)
	return v.err()
}

// unknownPolicy returns the status for a policy that ns, which is called
// namespace, does not have.
func unknownPolicy(namespace, name string, ns *policy.Namespace) error {
	known := slices.Sorted(maps.Keys(ns.Policies()))
	if len(known) == 0 {
		return status.Errorf(codes.NotFound, "unknown policy %q in namespace %q, for which the server's configuration has none; configure it, or send limits", name, namespace)
	}
	more := ""
	if n := len(known) - maxShown; n > 0 {
		known, more = known[:maxShown], fmt.Sprintf(" and %d more", n)
	}
	return status.Errorf(codes.NotFound, "unknown policy %q in namespace %q, for which the server's configuration has %s%s", name, namespace, strings.Join(known, ", "), more)
}

// callerGone returns the status for a context of the caller's that has ended,
// or nil.
func callerGone(ctx context.Context) error {
	switch err := store.CallerGone(ctx); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the caller's deadline passed before the decision was made")
	default:
		return status.Error(codes.Canceled, "the caller cancelled before the decision was made")
	}
}

// storeFailed returns the status for a failed store.
func storeFailed(err error) error {
	return status.Errorf(codes.Unavailable, "the store failed: %v", err)
}

// errStopping is the status of a stream that the server ends because it stops.
var errStopping = status.Error(codes.Unavailable, "the server is stopping; connect again")

// errPanicked is the status of a request whose handling panicked.
var errPanicked = status.Error(codes.Internal, "internal error: see the server's log")

// httpCode returns the HTTP status for err, which is a gRPC status.
func httpCode(err error) int {
	switch status.Code(err) {
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.Canceled:
		return 499 // as proxies log a client that went away; nobody reads it
	default:
		return http.StatusInternalServerError
	}
}

// writeError answers with err as the JSON of a google.rpc.Status.
func writeError(w http.ResponseWriter, code int, err error) {
	writeMessage(w, code, status.Convert(err).Proto())
}
