package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	rlsconfv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// resource returns an encoded RateLimitConfig of a domain.
func resource(t *testing.T, domain string, requests uint32, unit rlsconfv3.RateLimitUnit) []byte {
	t.Helper()
	data, err := proto.Marshal(&rlsconfv3.RateLimitConfig{Name: domain, Domain: domain, Descriptors: []*rlsconfv3.RateLimitDescriptor{
		{Key: "a", RateLimit: &rlsconfv3.RateLimitPolicy{RequestsPerUnit: requests, Unit: unit}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestReceive has an xDS server change the limits of Envoy, and files the rest, and neither
// undo what the other did.
func TestReceive(t *testing.T) {
	day := rlsconfv3.RateLimitUnit_DAY
	nothing := func(string) (string, bool) { return "", false }
	c, waiting, err := Read(flags.Source{"xds-server": {Text: "127.0.0.1:18000", Name: "--xds-server"}}, nothing)
	if err != nil || !waiting.Domains.IsAwaited() {
		t.Fatalf("before anything has come: %+v, %v", waiting, err)
	}
	one, two := resource(t, "one", 1, day), resource(t, "two", 2, day)
	first, err := c.Receive(waiting, [][]byte{one, two})
	if err != nil || fmt.Sprint(first.Domains.Domains(), first.Removed) != "[one two] []" || first.Version == waiting.Version {
		t.Fatalf("%+v, %v", first, err)
	}
	if same, err := c.Receive(first, [][]byte{two, one}); err != nil || same.Version != first.Version {
		t.Errorf("in another order it is another version: %s, %s, %v", same.Version, first.Version, err)
	}
	second, err := c.Receive(first, [][]byte{two})
	if err != nil || fmt.Sprint(second.Domains.Domains(), second.Removed) != `[two] [domain "one"]` || second.Version == first.Version {
		t.Errorf("%+v, %v", second, err)
	}
	bad, err := c.Receive(second, [][]byte{two, resource(t, "bad", 1, 0)})
	if err == nil || !strings.Contains(err.Error(), `resource "bad": descriptors[0] ("bad.a"): unit "UNKNOWN" is not known`) || bad.Version == second.Version {
		t.Errorf("%v", err)
	}
	if none, err := c.Receive(second, nil); err != nil || none.Domains.IsAwaited() || len(none.Domains.Domains()) != 0 || none.Version == waiting.Version {
		t.Errorf("no resources: %+v, %v", none, err)
	}
	many := slices.Repeat([][]byte{one}, maxDirFiles+1)
	if _, err := c.Receive(second, many); err == nil || !strings.Contains(err.Error(), "10001 resources, and there may be 10000; send fewer") {
		t.Errorf("%v", err)
	}
	// Files are read again.
	again, err := c.Reload(second)
	if err != nil || again.Version != second.Version || !slices.Equal(again.Domains.Domains(), []string{"two"}) || again.Removed != nil {
		t.Errorf("after a reload: %+v, %v", again, err)
	}
}
