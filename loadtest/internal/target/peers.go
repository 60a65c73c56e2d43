package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ratelimitd/ratelimitd/internal/rate"
)

// This file asks other rate limiters over their own gRPC and JSON. Their messages are few
// and small, so it writes and reads the fields itself. Field numbers are those of their
// published definitions.

// A gcraLimit is a limit as throttlecrab asks for it.
type gcraLimit struct{ burst, count, seconds uint64 }

// rawCodec hands messages through as they are.
type rawCodec struct{}

// Name implements encoding.CodecV2.
func (rawCodec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

// Unmarshal implements encoding.CodecV2.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	to := v.(*[]byte)
	*to = data.MaterializeToBuffer(mem.NopBufferPool{}).ReadOnlyData()
	return nil
}

// A peer asks with messages that it encodes itself.
type peer struct {
	conn   *grpc.ClientConn
	method string
	encode func(in []byte, identifiers []string) []byte
	decode func(out []byte, verdicts []Verdict) error

	in, out []byte
}

// Ask implements Session.
func (s *peer) Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error {
	// A new message for each call: gRPC may still be writing the last one after a failed call.
	s.in = s.encode(make([]byte, 0, len(s.in)+16), identifiers)
	if err := s.conn.Invoke(ctx, s.method, &s.in, &s.out, grpc.ForceCodecV2(rawCodec{})); err != nil {
		return err
	}
	return s.decode(s.out, verdicts)
}

// newThrottlecrab returns a session with throttlecrab's gRPC.
func newThrottlecrab(o *Options, conn *grpc.ClientConn) *peer {
	limit := throttleLimit(o)
	return &peer{
		conn: conn, method: "/throttlecrab.RateLimiter/Throttle",
		encode: func(in []byte, identifiers []string) []byte {
			in = appendText(in, 1, identifiers[0])
			in = appendNumber(in, 2, limit.burst)
			in = appendNumber(in, 3, limit.count)
			in = appendNumber(in, 4, limit.seconds)
			return appendNumber(in, 5, o.Cost)
		},
		decode: func(out []byte, verdicts []Verdict) error {
			verdicts[0] = Denied
			return fields(out, func(field protowire.Number, number uint64, _ []byte) error {
				if field == 1 && number != 0 {
					verdicts[0] = Allowed
				}
				return nil
			})
		},
	}
}

// newGubernator returns a session with gubernator's GetRateLimits, which takes batches.
func newGubernator(o *Options, conn *grpc.ClientConn) *peer {
	r, _ := rate.Parse(o.Limits[0].GetRate()) // the flags were checked
	var request []byte
	return &peer{
		conn: conn, method: "/pb.gubernator.V1/GetRateLimits",
		encode: func(in []byte, identifiers []string) []byte {
			for _, id := range identifiers {
				request = appendText(request[:0], 1, o.Namespace)
				request = appendText(request, 2, id)
				request = appendNumber(request, 3, o.Cost)
				request = appendNumber(request, 4, uint64(r.Count))                   //nolint:gosec // a rate has no negative count
				request = appendNumber(request, 5, uint64(r.Period/time.Millisecond)) //nolint:gosec // nor a negative period
				in = protowire.AppendBytes(protowire.AppendTag(in, 1, protowire.BytesType), request)
			}
			return in
		},
		decode: decodeGubernator,
	}
}

// decodeGubernator reads a GetRateLimitsResp.
func decodeGubernator(out []byte, verdicts []Verdict) error {
	answered := 0
	err := fields(out, func(field protowire.Number, _ uint64, response []byte) error {
		if field != 1 {
			return nil
		}
		if answered == len(verdicts) {
			return errors.New("more answers than requests")
		}
		verdicts[answered] = Allowed
		err := fields(response, func(field protowire.Number, number uint64, text []byte) error {
			switch {
			case field == 1 && number == 1:
				verdicts[answered] = Denied
			case field == 5 && len(text) > 0:
				return fmt.Errorf("the server replies %.200s", text)
			}
			return nil
		})
		answered++
		return err
	})
	if err == nil && answered < len(verdicts) {
		err = fmt.Errorf("%d answers for %d requests", answered, len(verdicts))
	}
	return err
}

func appendText(in []byte, field protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(in, field, protowire.BytesType), text)
}

func appendNumber(in []byte, field protowire.Number, number uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(in, field, protowire.VarintType), number)
}

// fields calls see with each field of a message: its number, or its bytes.
func fields(message []byte, see func(field protowire.Number, number uint64, text []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var number uint64
		var text []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(message)
		default:
			n = protowire.ConsumeFieldValue(field, kind, message)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := see(field, number, text); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// throttleLimit returns the one limit in throttlecrab's terms.
func throttleLimit(o *Options) gcraLimit {
	r, _ := rate.Parse(o.Limits[0].GetRate())                                                                      // the flags were checked
	l := gcraLimit{burst: o.Limits[0].GetBurst(), count: uint64(r.Count), seconds: uint64(r.Period / time.Second)} //nolint:gosec // neither is negative
	if l.burst == 0 {
		l.burst = l.count
	}
	return l
}

// throttleJSON is what throttlecrab takes over HTTP.
func throttleJSON(o *Options) string {
	limit := throttleLimit(o)
	return fmt.Sprintf(`{"key":"%s","max_burst":%d,"count_per_period":%d,"period":%d,"quantity":%d}`, placeholder, limit.burst, limit.count, limit.seconds, o.Cost)
}

// limitadorJSON is what limitador takes over HTTP.
func limitadorJSON(o *Options) string {
	text, err := json.Marshal(struct {
		Namespace string            `json:"namespace"`
		Values    map[string]string `json:"values"`
		Delta     uint64            `json:"delta"`
	}{o.Namespace, map[string]string{o.DescriptorKey: placeholder}, o.Cost})
	if err != nil {
		panic(err) // a bug: it is texts and a number
	}
	return strings.TrimSpace(string(text))
}
