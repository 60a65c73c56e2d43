package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/null"
)

type nullCmd struct {
	GRPCAddr string
	HTTPAddr string
	RESPAddr string

	StreamWorkers int
	Codec         string
	ReadBuffer    int
	WriteBuffer   int
}

// newNullCmd returns the command with the defaults of its flags.
func newNullCmd() *nullCmd {
	return &nullCmd{
		GRPCAddr:      "127.0.0.1:8081",
		HTTPAddr:      "127.0.0.1:8080",
		StreamWorkers: 128,
		Codec:         "generated",
	}
}

// flags returns the flags whose values are the fields of c.
func (c *nullCmd) flags() *flags.Set {
	return &flags.Set{Flags: []flags.Flag{
		{Name: "grpc-addr", Value: flags.Text(&c.GRPCAddr), Help: "Where to serve gRPC, as host:port."},
		{Name: "http-addr", Value: flags.Text(&c.HTTPAddr), Help: "Where to serve HTTP, as host:port."},
		{Name: "resp-addr", Value: flags.Text(&c.RESPAddr), Hint: "HOST:PORT", Help: "Where to serve the protocol of Redis, with the library redcon; nowhere without it."},
		{Name: "stream-workers", Value: flags.Number(&c.StreamWorkers), Help: "Goroutines that serve calls one after the other; 0 starts one for each call."},
		{Name: "codec", Value: flags.OneOf(&c.Codec, "generated", "standard"), Help: "How to encode messages: with generated code, or with reflection (standard)."},
		{Name: "read-buffer", Value: flags.Number(&c.ReadBuffer), Hint: "BYTES", Help: "The size of gRPC's read buffer per connection; 0 for its default."},
		{Name: "write-buffer", Value: flags.Number(&c.WriteBuffer), Hint: "BYTES", Help: "The size of gRPC's write buffer per connection; 0 for its default."},
	}}
}

// Run serves until ctx ends.
func (c *nullCmd) Run(ctx context.Context, out io.Writer) error {
	if c.StreamWorkers < 0 || c.StreamWorkers > maxConcurrency {
		return fmt.Errorf("--stream-workers %d: give 0 to %d, such as 128", c.StreamWorkers, maxConcurrency)
	}
	if c.ReadBuffer < 0 || c.WriteBuffer < 0 {
		return fmt.Errorf("--read-buffer %d, --write-buffer %d: give 0 or more bytes, such as 65536", c.ReadBuffer, c.WriteBuffer)
	}
	g, err := net.Listen("tcp", c.GRPCAddr)
	if err != nil {
		return fmt.Errorf("--grpc-addr %q: %w; choose another, such as 127.0.0.1:8081", c.GRPCAddr, err)
	}
	h, err := net.Listen("tcp", c.HTTPAddr)
	if err != nil {
		_ = g.Close()
		return fmt.Errorf("--http-addr %q: %w; choose another, such as 127.0.0.1:8080", c.HTTPAddr, err)
	}
	var r net.Listener
	if c.RESPAddr != "" {
		if r, err = net.Listen("tcp", c.RESPAddr); err != nil {
			return errors.Join(fmt.Errorf("--resp-addr %q: %w; choose another, such as 127.0.0.1:6379", c.RESPAddr, err), g.Close(), h.Close())
		}
	}
	fmt.Fprintf(out, "null server: gRPC %s, HTTP %s\n", g.Addr(), h.Addr())
	return null.Serve(ctx, null.Options{
		RESP:          r,
		StreamWorkers: uint(c.StreamWorkers), StandardCodec: c.Codec == "standard",
		ReadBuffer: c.ReadBuffer, WriteBuffer: c.WriteBuffer,
	}, g, h)
}
