package server

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// TestExchangesKeepApart has callers send messages of all sizes at once, in
// which some requests are wrong, and finds in each answer what it asked.
func TestExchangesKeepApart(t *testing.T) {
	d := start(t, Options{})
	var callers sync.WaitGroup
	for caller := range 8 {
		random := rand.New(rand.NewPCG(1, uint64(caller)))
		send := d.client.ShouldAllowBatch
		callers.Go(func() {
			stream, err := d.client.ShouldAllowStream(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			for round := range 9 {
				in := &ratelimitv1.ShouldAllowBatchRequest{}
				for i := range 1 + random.IntN([]int{3, 40, 300}[round%3]) {
					r := ask(fmt.Sprint("caller ", caller), &ratelimitv1.Limit{Rate: "1000000/h", Name: fmt.Sprintf("%d.%d.%d", caller, round, i)})
					for j := range random.IntN(3) {
						r.Limits = append(r.Limits, limit(fmt.Sprintf("%d/day", 1+j)))
					}
					if i%7 == 3 {
						r.Limits[0].Rate = "never"
					}
					in.Requests = append(in.Requests, r)
				}
				var out *ratelimitv1.ShouldAllowBatchResponse
				if caller%2 == 0 {
					out, err = send(t.Context(), in)
				} else if err = stream.Send(in); err == nil {
					out, err = stream.Recv()
				}
				if err != nil || len(out.GetResults()) != len(in.GetRequests()) {
					t.Errorf("%d requests: %d results, %v", len(in.GetRequests()), len(out.GetResults()), err)
					return
				}
				for i, r := range in.GetRequests() {
					result := out.GetResults()[i]
					switch statuses := result.GetResponse().GetStatuses(); {
					case i%7 == 3:
						if codes.Code(result.GetError().GetCode()) != codes.InvalidArgument {
							t.Errorf("a wrong request is answered %v", result)
						}
					case len(statuses) != len(r.GetLimits()) || statuses[0].GetName() != r.GetLimits()[0].GetName() || statuses[0].GetRetryAfter() != nil:
						t.Errorf("%v is answered %v", r, result)
					}
				}
			}
		})
	}
	callers.Wait()
}
