package storetest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// A Reply is what a hostile server says to a command. write reports whether the client
// still listens.
type Reply = func(write func(string) bool)

// Serve starts a server that has talk speak with each client, until the test ends,
// and returns its address. No connection lives for more than 20 seconds.
func Serve(t *testing.T, talk func(c net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { _ = c.Close() })()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				talk(c)
			})
		}
	})
	t.Cleanup(func() { cancel(); _ = l.Close(); serving.Wait() })
	return l.Addr().String()
}
