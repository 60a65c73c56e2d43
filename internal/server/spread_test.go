package server

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	grpcdns "google.golang.org/grpc/resolver/dns"

	"github.com/ratelimitd/ratelimitd/internal/config"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// nameServer answers each question for IPv4 addresses with those that it has, and each
// other one with none.
func nameServer(t *testing.T) (addr string, addresses *atomic.Pointer[[][4]byte]) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	addresses = new(atomic.Pointer[[][4]byte])
	go func() {
		for buf := make([]byte, 512); ; {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}, Questions: m.Questions}
			for _, a := range *addresses.Load() {
				if q.Type == dnsmessage.TypeA {
					answer.Answers = append(answer.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: a},
					})
				}
			}
			if packet, err := answer.Pack(); err == nil {
				_, _ = conn.WriteTo(packet, from)
			}
		}
	}()
	return conn.LocalAddr().String(), addresses
}

// TestNewDaemonGetsItsShare starts a second daemon behind the name by which a client
// knows the first one. A client asks for the addresses of a name again only when a
// connection ends, so without --connection-age it would never see the second one.
func TestNewDaemonGetsItsShare(t *testing.T) {
	grpcdns.SetMinResolutionInterval(10 * time.Millisecond) // 30 s by default
	t.Cleanup(func() { grpcdns.SetMinResolutionInterval(30 * time.Second) })
	young := Options{Bounds: bounds(func(b *config.Bounds) { b.ConnectionAge = 200 * time.Millisecond })}
	one := start(t, young)
	_, port, _ := strings.Cut(one.GRPCAddr(), ":")
	names, addresses := nameServer(t)
	addresses.Store(&[][4]byte{{127, 0, 0, 1}})

	conn, err := grpc.NewClient("dns://"+names+"/ratelimitd.test.:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := ratelimitv1.NewRateLimitServiceClient(conn)
	asked := map[string]int{} // by address
	once := func() {
		t.Helper()
		var from peer.Peer
		if _, err := client.ShouldAllow(t.Context(), ask("a", limit("1/s")), grpc.Peer(&from)); err != nil {
			t.Fatal(err) // a connection that ends must not fail a call
		}
		asked[from.Addr.String()]++
	}
	for range 100 {
		once()
	}
	young.GRPCAddr = "127.0.0.2:" + port
	two := start(t, young)
	addresses.Store(&[][4]byte{{127, 0, 0, 1}, {127, 0, 0, 2}})
	for end := time.Now().Add(patient); asked[two.GRPCAddr()] == 0; {
		if once(); time.Now().After(end) {
			t.Fatalf("the second daemon is never asked: %v", asked)
		}
	}
	clear(asked)
	for range 400 {
		once()
	}
	if n := asked[two.GRPCAddr()]; n < 40 {
		t.Errorf("the second daemon got %d of 400 calls: %v", n, asked)
	}
}
