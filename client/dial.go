package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // has connections watch the health of their daemon
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// balance has calls go to each of the daemons that say they are healthy, in turn.
const balance = `{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}`

// reconnect tries again soon: a daemon that is back is to be found within a second.
// gRPC's own pauses grow to two minutes.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 250 * time.Millisecond},
	MinConnectTimeout: 2 * time.Second,
}

// alive finds a daemon that is gone without a word. The daemon permits a ping every 10 s.
var alive = keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 2 * time.Second, PermitWithoutStream: true}

// windowBytes is how much a connection receives before it says that there is room for more.
// A window that gRPC may change has it send a ping beside nearly each call of a caller that is
// alone, to measure the bandwidth. At 3,000 calls a second that cost the daemon a fifth more.
const windowBytes = 1 << 20

// scheme is that of several addresses.
const scheme = "ratelimitd"

func dial(o *Options) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if o.TLS != nil {
		transport = credentials.NewTLS(o.TLS)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport), grpc.WithDefaultServiceConfig(balance), grpc.WithConnectParams(reconnect),
		grpc.WithKeepaliveParams(alive), grpc.WithIdleTimeout(0), grpc.WithUserAgent("ratelimitd-go"),
		grpc.WithStaticStreamWindowSize(windowBytes), grpc.WithStaticConnWindowSize(windowBytes),
	}
	if o.Token != "" {
		if strings.ContainsFunc(o.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, errors.New("ratelimitd: Options.Token: it has a character that no token has; give one token without spaces")
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer("Bearer "+o.Token)))
	}
	target := DefaultAddress
	switch len(o.Addresses) {
	case 0:
	case 1:
		target = withPort(o.Addresses[0])
	default:
		list := manual.NewBuilderWithScheme(scheme)
		var state resolver.State
		for _, address := range o.Addresses {
			address = withPort(address)
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, fmt.Errorf("ratelimitd: Options.Addresses: %q: write host:port, such as ratelimitd:8081", address)
			}
			state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address, ServerName: host}}})
		}
		list.InitialState(state)
		options = append(options, grpc.WithResolvers(list))
		target = scheme + ":///daemons"
	}
	conn, err := grpc.NewClient(target, append(options, o.Dial...)...)
	if err != nil {
		return nil, fmt.Errorf("ratelimitd: Options: %w", err)
	}
	return conn, nil
}

// withPort returns address with the port of ratelimitd, if it is a host without one.
func withPort(address string) string {
	if strings.Contains(address, "/") { // a target of gRPC, such as unix:///run/ratelimitd.sock
		return address
	}
	if _, _, err := net.SplitHostPort(address); err != nil && !strings.Contains(address, ":") && address != "" {
		return address + ":8081"
	}
	return address
}

// A bearer is the value of the authorization header.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. Without TLS the token
// is sent all the same: a daemon on this machine, or behind a proxy of a mesh, needs none.
func (bearer) RequireTransportSecurity() bool { return false }
