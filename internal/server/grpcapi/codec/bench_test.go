package codec

import (
	"testing"

	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// BenchmarkCodec encodes and decodes one request and one response, as either
// side does for a call.
func BenchmarkCodec(b *testing.B) {
	request := &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: "user:123456", Limits: []*ratelimitv1.Limit{{Rate: "100/min", Strategy: ratelimitv1.Strategy_TOKEN_BUCKET}}}
	response := &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT, Statuses: []*ratelimitv1.LimitStatus{{Limit: 100, Remaining: 99, ResetAfter: durationpb.New(600_000_000), Allowed: true}}}
	for name, codec := range map[string]encoding.CodecV2{"standard": encoding.GetCodecV2("proto"), "generated": New(nil)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				data, err := codec.Marshal(request)
				if err != nil {
					b.Fatal(err)
				}
				if err := codec.Unmarshal(data, new(ratelimitv1.ShouldAllowRequest)); err != nil {
					b.Fatal(err)
				}
				data, err = codec.Marshal(response)
				if err != nil {
					b.Fatal(err)
				}
				if err := codec.Unmarshal(data, new(ratelimitv1.ShouldAllowResponse)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
