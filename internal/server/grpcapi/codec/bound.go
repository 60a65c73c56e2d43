package codec

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

const (
	// maxFields is how many fields a message may have, with those of the messages in
	// it: more than the largest batch has. A field takes two bytes on the wire, and
	// much longer to decode than to send.
	maxFields = 200_000
	// fewBytes hold so few fields that they need not be counted.
	fewBytes = 64 << 10
)

// An element takes two bytes on the wire and a hundred in memory, so that a
// message of a few megabytes could take all the memory there is. Therefore
// elements are counted before a message is decoded, and of those that are too
// many all but one are dropped: with that one, the server still finds that they
// are too many, and says so to the request that they are of.

// A bound says how many elements a message may have in its repeated field.
type bound struct {
	field protowire.Number
	most  int
	below *bound // of each element; nil: they have no repeated field
}

var (
	requestBound = &bound{field: 3, most: strategy.MaxLimits}
	batchBound   = &bound{field: 1, most: apiv1.MaxBatch, below: requestBound}
)

// bounded returns data, which is to be decoded into v, without the elements that
// are too many. Data that is malformed it leaves to the decoder. The error says that
// it has too many fields.
func bounded(data []byte, v any) ([]byte, error) {
	var b *bound
	switch v.(type) {
	case *ratelimitv1.ShouldAllowRequest, *ratelimitv1.ResetRequest:
		b = requestBound
	case *ratelimitv1.ShouldAllowBatchRequest, *ratelimitv1.ReserveRequest: // which has one request, in the same field
		b = batchBound
	default:
		return data, nil
	}
	if len(data) > fewBytes && b.count(data, maxFields) < 0 {
		return nil, fmt.Errorf("the message has more than %d fields; send at most %d requests of at most %d limits each, and nothing else", maxFields, apiv1.MaxBatch, strategy.MaxLimits)
	}
	if b.holds(data) {
		return data, nil
	}
	return b.trim(nil, data), nil
}

// count counts down from left for each field of a message and of its elements, and
// returns what is left then. It stops below 0. A nil bound is that of a message
// without elements.
func (b *bound) count(data []byte, left int) int {
	for len(data) > 0 && left >= 0 {
		number, element, n := consumeElement(data)
		if n < 0 {
			return left // the decoder stops here too
		}
		data = data[n:]
		left--
		if b != nil && number == b.field && element != nil {
			left = b.below.count(element, left)
		}
	}
	return left
}

// holds reports whether a message is within b.
func (b *bound) holds(data []byte) bool {
	elements := 0
	for len(data) > 0 {
		number, element, n := consumeElement(data)
		if n < 0 {
			return true
		}
		data = data[n:]
		if number != b.field || element == nil {
			continue
		}
		if elements++; elements > b.most || b.below != nil && !b.below.holds(element) {
			return false
		}
	}
	return true
}

// consumeElement returns the number of the field that data begins with, what it holds
// if that is of variable length (then not nil), and the field's size, which is below 0
// if it is malformed.
func consumeElement(data []byte) (number protowire.Number, element []byte, size int) {
	const short = 0x80 // what is below takes one byte
	if len(data) > 1 && data[0] < short && data[1] < short && data[0]&7 == byte(protowire.BytesType) && data[0]>>3 > 0 {
		if size = 2 + int(data[1]); size <= len(data) { // most fields: without the calls below
			return protowire.Number(data[0] >> 3), data[2:size:size], size
		}
	}
	number, kind, n := protowire.ConsumeTag(data)
	if n < 0 {
		return 0, nil, n
	}
	if kind == protowire.BytesType {
		element, m := protowire.ConsumeBytes(data[n:])
		if m < 0 {
			return 0, nil, m
		}
		return number, element, n + m
	}
	m := protowire.ConsumeFieldValue(number, kind, data[n:])
	if m < 0 {
		return 0, nil, m
	}
	return number, nil, n + m
}

// trim appends to out the message without the elements that are too many, but
// for one.
func (b *bound) trim(out, data []byte) []byte {
	elements := 0
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		size := -1
		if n >= 0 {
			size = protowire.ConsumeFieldValue(number, kind, data[n:])
		}
		if size < 0 {
			return append(out, data...) // for the decoder to refuse
		}
		field := data[:n+size]
		data = data[n+size:]
		if number != b.field || kind != protowire.BytesType {
			out = append(out, field...)
			continue
		}
		if elements++; elements > b.most+1 {
			continue
		}
		if b.below == nil {
			out = append(out, field...)
			continue
		}
		element, _ := protowire.ConsumeBytes(field[n:])
		out = protowire.AppendTag(out, number, kind)
		out = protowire.AppendBytes(out, b.below.trim(nil, element))
	}
	return out
}
