package server

import (
	"testing"

	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/connect"
)

// clients returns the clients of a file.
func clients(tb testing.TB, text string) *auth.Directory {
	tb.Helper()
	d, err := auth.Parse("clients.yaml", []byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// withToken returns options of a client that sends a token, beside those of its
// transport.
func withToken(token string) []grpc.DialOption {
	o := connect.Options{}
	link, err := o.Open(func(string) (string, bool) { return token, true })
	if err != nil {
		panic(err)
	}
	return link.GRPC()
}
