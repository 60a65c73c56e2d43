package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// TestConfiguredNamespacesKeepTheirShare floods a daemon that has room for 16 counters with
// namespaces that nobody has configured. A namespace that is configured loses none of four.
func TestConfiguredNamespacesKeepTheirShare(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ratelimitd.yaml")
	rate := "1/366d"
	if err := os.WriteFile(file, []byte("namespaces: {login: {policies: {guess: {limits: [{rate: "+rate+"}]}}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at, _ := servesAt(t, nil, "--config="+file, "--memory-max-keys=16")
	conn, err := grpc.NewClient(at.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := ratelimitv1.NewRateLimitServiceClient(conn)
	allowed := func(r *ratelimitv1.ShouldAllowRequest) bool {
		response, err := client.ShouldAllow(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return response.GetAllowed()
	}
	guess := func(i int) bool {
		return allowed(&ratelimitv1.ShouldAllowRequest{Namespace: "login", Identifier: fmt.Sprint(i), Policy: "guess"})
	}
	for i := range 4 {
		guess(i)
	}
	for i := range 100 {
		allowed(&ratelimitv1.ShouldAllowRequest{Namespace: fmt.Sprint("junk ", i), Identifier: "x", Limits: []*ratelimitv1.Limit{{Rate: rate}}})
	}
	for i := range 4 {
		if guess(i) {
			t.Errorf("identifier %d, which was denied, is allowed after a flood", i)
		}
	}
}
