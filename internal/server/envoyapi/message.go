package envoyapi

import (
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/utf8text"
)

// Envoy puts into descriptors what its clients send in headers, whatever bytes
// these are. Generated code for RateLimitRequest refuses a text that is not UTF-8,
// and with it the whole call: then Envoy lets the request pass, and a client
// needs one such byte to be held to nothing. So these messages are decoded here.
// Their texts are bytes, and two that differ are two identifiers.

const (
	// maxDescriptors is how many descriptors a request may have.
	maxDescriptors = 1000
	// maxEntries is how many entries a descriptor may have. A configuration is
	// not nested deeper.
	maxEntries = 100
	// maxFields is how many fields a request may have, with those of the messages in it:
	// more than the largest one has. Each takes two bytes on the wire, and much longer
	// to decode than to send.
	maxFields = 400_000
)

// A request is a RateLimitRequest.
type request struct {
	domain      string
	descriptors []descriptor
	hits        uint32

	entries []envoy.Entry // those of all descriptors
	fields  int           // decoded so far
	err     error         // why it cannot be decoded, or nil
	tooMany string        // what it has too many of: the rest was dropped
}

// A descriptor is a RateLimitDescriptor.
type descriptor struct {
	first, last int // its entries in those of the request, last not included
	limit       *override
	hits        *uint64 // nil: those of the request
	negative    bool
	barred      bool // it is negative, and its caller may not give back: its hits are ignored
}

// givesBack reports whether the hits of d are given back.
func (d *descriptor) givesBack() bool { return d.negative && !d.barred }

// An override is a limit that a descriptor brings along.
type override struct {
	requests   uint32
	unit       envoy.Unit
	multiplier *uint32 // nil: 1
}

// String returns o as the text format of protocol buffers has it.
func (o *override) String() string {
	message := &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: o.requests, Unit: typev3.RateLimitUnit(o.unit)}
	if o.multiplier != nil {
		message.UnitMultiplier = wrapperspb.UInt32(*o.multiplier)
	}
	return strings.ReplaceAll(message.String(), "  ", " ") // how many spaces there are differs by build
}

// entriesOf returns the entries of d.
func (r *request) entriesOf(d *descriptor) []envoy.Entry { return r.entries[d.first:d.last] }

// Received implements codec.Receiver.
func (r *request) Received(int) any { return r }

// Undecodable implements codec.Receiver.
func (r *request) Undecodable(err error) { r.err = err }

// DecodeWire implements codec.WireMessage. The texts of r are parts of data.
func (r *request) DecodeWire(data []byte) error {
	err := r.eachField(data, func(f field) error {
		switch {
		case f.is(1, protowire.BytesType):
			r.domain = f.text()
		case f.is(2, protowire.BytesType):
			return r.decodeDescriptor(f.bytes)
		case f.is(3, protowire.VarintType):
			r.hits = uint32(f.varint)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("RateLimitRequest: %w", err)
	}
	return nil
}

func (r *request) decodeDescriptor(data []byte) error {
	if len(r.descriptors) == maxDescriptors {
		r.tooMany = tooManyDescriptors
		return nil
	}
	d := descriptor{first: len(r.entries)}
	err := r.eachField(data, func(f field) error {
		switch {
		case f.is(1, protowire.BytesType):
			return r.decodeEntry(&d, f.bytes)
		case f.is(2, protowire.BytesType):
			if d.limit == nil {
				d.limit = new(override)
			}
			return d.limit.decode(r, f.bytes)
		case f.is(3, protowire.BytesType):
			if d.hits == nil {
				d.hits = new(uint64)
			}
			return decodeWrapped(r, f.bytes, d.hits)
		case f.is(4, protowire.VarintType):
			d.negative = f.varint != 0
		}
		return nil
	})
	d.last = len(r.entries)
	r.descriptors = append(r.descriptors, d)
	return err
}

func (r *request) decodeEntry(d *descriptor, data []byte) error {
	if len(r.entries)-d.first == maxEntries {
		r.tooMany = tooManyEntries
		return nil
	}
	var e envoy.Entry
	err := r.eachField(data, func(f field) error {
		switch {
		case f.is(1, protowire.BytesType):
			e.Key = f.text()
		case f.is(2, protowire.BytesType):
			e.Value = f.text()
		}
		return nil
	})
	r.entries = append(r.entries, e)
	return err
}

func (o *override) decode(r *request, data []byte) error {
	return r.eachField(data, func(f field) error {
		switch {
		case f.is(1, protowire.VarintType):
			o.requests = uint32(f.varint)
		case f.is(2, protowire.VarintType):
			o.unit = envoy.Unit(int32(f.varint)) //nolint:gosec // as protobuf cuts enums
		case f.is(3, protowire.BytesType):
			if o.multiplier == nil {
				o.multiplier = new(uint32)
			}
			return decodeWrapped(r, f.bytes, o.multiplier)
		}
		return nil
	})
}

// decodeWrapped sets value to what a UInt32Value or UInt64Value holds, if it holds any.
func decodeWrapped[T uint32 | uint64](r *request, data []byte, value *T) error {
	return r.eachField(data, func(f field) error {
		if f.is(1, protowire.VarintType) {
			*value = T(f.varint)
		}
		return nil
	})
}

// A field is one of a message as it is on the wire.
type field struct {
	number protowire.Number
	kind   protowire.Type
	bytes  []byte // of a BytesType
	varint uint64 // of a VarintType
}

// text returns the bytes as a string, which is a part of the message: that is
// used for nothing else, and so is never changed.
func (f *field) text() string {
	return unsafe.String(unsafe.SliceData(f.bytes), len(f.bytes)) //nolint:gosec // see above
}

func (f *field) is(number protowire.Number, kind protowire.Type) bool {
	return f.number == number && f.kind == kind
}

// eachField calls do for each field of a message in r, in order.
func (r *request) eachField(data []byte, do func(field) error) error {
	for len(data) > 0 {
		if r.fields++; r.fields > maxFields {
			return errTooManyFields
		}
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		f := field{number: number, kind: kind}
		switch kind {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(data)
		default:
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := do(f); err != nil {
			return err
		}
	}
	return nil
}

var errTooManyFields = fmt.Errorf("it has more than %d fields; send at most %d descriptors, each with at most %d entries", maxFields, maxDescriptors, maxEntries)

// What a request is told that has too many of something.
const (
	tooManyDescriptors = "more than 1000 descriptors; give 1 to 1000"
	tooManyEntries     = "more than 100 entries in one of them; give 1 to 100"
)

// fromMessage sets r to in, which JSON was.
func (r *request) fromMessage(in *rlsv3.RateLimitRequest) {
	r.domain, r.hits = in.GetDomain(), in.GetHitsAddend()
	for _, from := range in.GetDescriptors() {
		switch {
		case len(r.descriptors) == maxDescriptors:
			r.tooMany = tooManyDescriptors
			return
		case len(from.GetEntries()) > maxEntries:
			r.tooMany = tooManyEntries
			return
		}
		d := descriptor{first: len(r.entries), negative: from.GetIsNegativeHits()}
		for _, e := range from.GetEntries() {
			r.entries = append(r.entries, envoy.Entry{Key: e.GetKey(), Value: e.GetValue()})
		}
		d.last = len(r.entries)
		if own := from.GetHitsAddend(); own != nil {
			d.hits = new(own.GetValue())
		}
		if own := from.GetLimit(); own != nil {
			d.limit = &override{requests: own.GetRequestsPerUnit(), unit: envoy.Unit(own.GetUnit())}
			if own.GetUnitMultiplier() != nil {
				d.limit.multiplier = new(own.GetUnitMultiplier().GetValue())
			}
		}
		r.descriptors = append(r.descriptors, d)
	}
}

// hitsOf returns how much d asks for, or gives back.
func (r *request) hitsOf(d *descriptor) uint64 {
	if d.barred {
		return 0
	}
	if d.hits != nil {
		return *d.hits
	}
	return uint64(max(1, r.hits))
}

// text returns s as text: bytes that are not UTF-8 are escaped, as \xff.
func text(s string) string {
	if utf8text.Valid(s) {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}
