package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/ratelimitd/ratelimitd/loadtest/internal/null"
)

type nullCmd struct {
	GRPCAddr string `name:"grpc-addr" default:"127.0.0.1:8081" help:"Where to serve gRPC, as host:port."`
	HTTPAddr string `name:"http-addr" default:"127.0.0.1:8080" help:"Where to serve HTTP, as host:port."`

	StreamWorkers int    `default:"128" help:"Goroutines that serve calls one after the other; 0 starts one for each call."`
	Codec         string `enum:"generated,standard" default:"generated" help:"How to encode messages: with generated code, or with reflection (standard)."`
	ReadBuffer    int    `default:"0" placeholder:"BYTES" help:"The size of gRPC's read buffer per connection; 0 for its default."`
	WriteBuffer   int    `default:"0" placeholder:"BYTES" help:"The size of gRPC's write buffer per connection; 0 for its default."`
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
	fmt.Fprintf(out, "null server: gRPC %s, HTTP %s\n", g.Addr(), h.Addr())
	return null.Serve(ctx, null.Options{
		StreamWorkers: uint(c.StreamWorkers), StandardCodec: c.Codec == "standard",
		ReadBuffer: c.ReadBuffer, WriteBuffer: c.WriteBuffer,
	}, g, h)
}
