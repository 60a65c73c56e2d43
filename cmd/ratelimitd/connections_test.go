package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

// TestHealthInACrowd opens more connections to a daemon than it has file descriptors,
// and asks both ports for its health meanwhile.
func TestHealthInACrowd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	grpcAddr, httpAddr := freeAddr(t), freeAddr(t)
	cmd := exec.CommandContext(ctx, "bash", "-c", `ulimit -n 64; exec "$@"`, "bash", //nolint:gosec // the test's own program
		os.Args[0], "serve", "--grpc-addr="+grpcAddr, "--http-addr="+httpAddr, "--admin-addr=off")
	cmd.Env = append(os.Environ(), asMain+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	probe := func() error {
		answer, err := client.Get("http://" + httpAddr + "/healthz") //nolint:noctx // it has a timeout
		if err != nil {
			return err
		}
		_ = answer.Body.Close()
		conn, err := grpc.NewClient(grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
	redistest.Eventually(t, "it serves", probe)
	var crowd []net.Conn
	for i := range 200 {
		for _, addr := range []string{grpcAddr, httpAddr} {
			if c, err := net.DialTimeout("tcp", addr, 5*time.Second); err == nil {
				crowd = append(crowd, c)
			}
		}
		if i%20 == 19 {
			if err := probe(); err != nil {
				t.Errorf("with %d connections: %v", len(crowd), err)
			}
		}
	}
	for _, c := range crowd {
		_ = c.Close()
	}
	if err := probe(); err != nil {
		t.Error(err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(fmt.Errorf("it ends with %w", err))
	}
}
