package server

import (
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
)

// connectionTimeout is how long a gRPC connection may take until calls can be made on it,
// with its TLS handshake.
const connectionTimeout = 10 * time.Second

// windowBytes is how much a client may send of a message that nobody has begun to read, on
// each stream; and how much on a connection before that is acknowledged, which is at
// once. It is the least that gRPC has, and fixed: by itself gRPC would raise it to 16 MB.
const windowBytes = 64<<10 - 1

// streamWorkers is how many goroutines are kept to answer calls: a goroutine of
// its own for each call costs a fifth more of the server's time, most of it for
// growing its stack. When all are busy, that is what further calls get.
const streamWorkers = 128

// newGRPC returns the server of the gRPC port, with health and reflection; the fronts
// register with it. It starts its workers.
func newGRPC(b config.Bounds, c *chain, health healthpb.HealthServer, more []grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(b.MessageBytes),
		grpc.MaxConcurrentStreams(uint32(b.Streams)),  //nolint:gosec // checked by config
		grpc.MaxHeaderListSize(uint32(b.HeaderBytes)), //nolint:gosec // likewise
		grpc.InitialWindowSize(windowBytes),
		grpc.InitialConnWindowSize(windowBytes),
		grpc.InTapHandle(c.tap),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(codec.New(c.turns)),
		grpc.RPCDecompressor(noGzip{}), //nolint:staticcheck // deprecated, and the only way to turn gzip off
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:                  time.Minute, // finds clients that vanished
			MaxConnectionAge:      b.ConnectionAge,
			MaxConnectionAgeGrace: b.ConnectionGrace,
			MaxConnectionIdle:     b.ConnectionIdle,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(c.unary),
		grpc.StreamInterceptor(c.stream),
	}, more...)...)
	healthpb.RegisterHealthServer(refusingRegistrar{g, c.faults.Undecodable}, health)
	reflection.Register(g)
	return g
}

// noGzip refuses compressed messages. The exporter of traces installs gzip for all
// of gRPC, and with it a caller's few kilobytes would become megabytes here.
// Messages are small, so that compression costs more than it saves.
type noGzip struct{}

// Type implements grpc.Decompressor.
func (noGzip) Type() string { return "gzip" }

// Do implements grpc.Decompressor.
func (noGzip) Do(io.Reader) ([]byte, error) {
	return nil, errors.New("this server takes no compressed messages; send them uncompressed")
}

// A refusingRegistrar registers services whose unary methods have generated
// handlers, so that these too refuse what cannot be decoded. (The fronts see to
// that themselves, and the chain does for streams.)
type refusingRegistrar struct {
	*grpc.Server
	refuse codec.Refusal
}

// RegisterService implements grpc.ServiceRegistrar.
func (r refusingRegistrar) RegisterService(d *grpc.ServiceDesc, impl any) {
	own := *d
	own.Methods = slices.Clone(d.Methods)
	for i := range own.Methods {
		m := &own.Methods[i]
		m.Handler = r.refuse.Handler("/"+d.ServiceName+"/"+m.MethodName, m.Handler)
	}
	r.Server.RegisterService(&own, impl)
}
