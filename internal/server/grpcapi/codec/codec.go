// Package codec encodes gRPC messages with generated code where they have it,
// and as gRPC itself does where they have not.
//
// Its bytes are the same protobuf as ever, so either side of a connection may
// use it without the other.
package codec

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/grpc/encoding"
	standard "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/turns"
	"github.com/ratelimitd/ratelimitd/internal/utf8text"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A Codec is an encoding.CodecV2 by the name of proto, for
// grpc.ForceServerCodecV2 and grpc.ForceCodecV2. Its zero value is not ready:
// use New. It is safe for concurrent use.
//
// Large messages take turns: see package turns.
type Codec struct {
	standard encoding.CodecV2 // for messages without generated code
	turns    *turns.Turns     // of large messages
}

// largeBytes is what a message has at least to be large: that of some 1,000 requests.
const largeBytes = 64 << 10

// turn waits for the turn of a message of some bytes. Nobody tells a codec whose message it
// is, so that all clients are one here.
func (c Codec) turn(bytes int) *turns.Turn {
	if bytes < largeBytes {
		return nil
	}
	turn, _ := c.turns.Take(context.Background(), netip.Prefix{}) // fails of no context that goes on
	return turn
}

var _ encoding.CodecV2 = Codec{}

// New returns a Codec, whose large messages take t. nil: they take none.
func New(t *turns.Turns) Codec {
	return Codec{standard: encoding.GetCodecV2(standard.Name), turns: t}
}

// A vtMessage is a message with code that protoc-gen-go-vtproto generated.
type vtMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVTUnsafe([]byte) error
}

// A WireMessage decodes itself.
type WireMessage interface {
	// DecodeWire sets the message, which is empty, to what data holds. It may
	// keep data.
	DecodeWire(data []byte) error
}

// A Sender stands for a message to be sent, for servers that use messages again.
type Sender interface {
	// Sending returns the message to encode, which is valid: it is not checked.
	Sending() proto.Message
	// Sent is called when the message is encoded, in so many bytes, and not needed any
	// more.
	Sent(bytes int)
}

// Name implements encoding.CodecV2.
func (Codec) Name() string { return standard.Name }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	s, valid := v.(Sender)
	size := 0
	if valid {
		v = s.Sending()
		defer func() { s.Sent(size) }()
	}
	m, ok := v.(vtMessage)
	if !ok {
		return c.standard.Marshal(v)
	}
	if !valid {
		if err := errors.Join(checkRequestText(v), check(v)); err != nil {
			return nil, fmt.Errorf("marshal: %w", err)
		}
	}
	size = m.SizeVT()
	defer c.turn(size).End()
	// The pool has a megabyte for all that is longer, and a reply that nobody reads would
	// keep that.
	const longest = 32 << 10
	if mem.IsBelowBufferPoolingThreshold(size) || size > longest {
		buf := make([]byte, size)
		if _, err := m.MarshalToSizedBufferVT(buf); err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := m.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2. As gRPC hands it fresh messages, what
// v held is not cleared. Each text of v keeps the memory of all of v's: whoever
// keeps one for long clones it.
//
// A text of a request that is not UTF-8 is left to the server, which can tell its
// caller which field it is. Of a batch, or of limits, that are too many, one is
// left too many: see bound.go.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	defer c.turn(data.Len()).End()
	r, ok := v.(Receiver)
	if !ok {
		return c.decode(data, v)
	}
	if err := c.decode(data, r.Received(data.Len())); err != nil {
		r.Undecodable(err)
	}
	return nil
}

func (c Codec) decode(data mem.BufferSlice, v any) error {
	if w, ok := v.(WireMessage); ok {
		return w.DecodeWire(data.Materialize())
	}
	m, ok := v.(vtMessage)
	if !ok {
		return c.standard.Unmarshal(data, v)
	}
	// The texts of v are parts of this, which is used for nothing else and so is
	// never changed: one allocation for all of them.
	text, err := bounded(data.Materialize(), v)
	if err == nil {
		err = m.UnmarshalVTUnsafe(text)
	}
	if err != nil {
		return fmt.Errorf("unmarshal: %w", err)
	}
	if err := check(v); err != nil {
		return fmt.Errorf("unmarshal: %w", err)
	}
	return nil
}

// check returns an error if v holds what protobuf does not allow and the
// generated code does not look for: unknown fields that are malformed groups, on
// which later uses of the message could panic; or in a response a text that is
// not UTF-8. Tests have every string of every message of the API refused here or
// by the server, and compare with the standard code on random bytes.
func check(v any) error {
	switch m := v.(type) {
	case *ratelimitv1.ShouldAllowRequest:
		return checkSubject(m)
	case *ratelimitv1.ShouldAllowBatchRequest:
		for _, r := range m.GetRequests() {
			if err := checkSubject(r); err != nil {
				return err
			}
		}
		return checkUnknown(m)
	case *ratelimitv1.ResetRequest:
		return checkSubject(m)
	case *ratelimitv1.ReserveRequest:
		return errors.Join(checkUnknown(m), checkSubject(m.GetRequest()))
	case *ratelimitv1.ReserveResponse:
		return errors.Join(checkUnknown(m), checkResponse(m.GetResponse()))
	case *ratelimitv1.CommitResponse:
		return errors.Join(checkUnknown(m), checkResponse(m.GetResponse()))
	case *ratelimitv1.ShouldAllowResponse:
		return checkResponse(m)
	case *ratelimitv1.ShouldAllowBatchResponse:
		for _, r := range m.GetResults() {
			// An error is encoded and decoded by the standard code.
			if err := errors.Join(checkUnknown(r), checkResponse(r.GetResponse())); err != nil {
				return err
			}
		}
		return checkUnknown(m)
	case proto.Message:
		return checkUnknown(m)
	}
	return nil
}

// A subject is what ShouldAllowRequest and ResetRequest share.
type subject interface {
	proto.Message
	GetNamespace() string
	GetIdentifier() string
	GetPolicy() string
	GetLimits() []*ratelimitv1.Limit
}

func checkSubject(m subject) error {
	for _, l := range m.GetLimits() {
		if err := checkUnknown(l); err != nil {
			return err
		}
	}
	return checkUnknown(m)
}

// checkRequestText returns an error if v is a request with a text that is not
// UTF-8.
func checkRequestText(v any) error {
	switch m := v.(type) {
	case *ratelimitv1.ShouldAllowBatchRequest:
		for _, r := range m.GetRequests() {
			if err := checkSubjectText(r); err != nil {
				return err
			}
		}
	case *ratelimitv1.ReserveRequest:
		return checkSubjectText(m.GetRequest())
	case subject:
		return checkSubjectText(m)
	}
	return nil
}

func checkSubjectText(m subject) error {
	switch {
	case !utf8text.Valid(m.GetNamespace()):
		return invalidText("namespace", m.GetNamespace())
	case !utf8text.Valid(m.GetIdentifier()):
		return invalidText("identifier", m.GetIdentifier())
	case !utf8text.Valid(m.GetPolicy()):
		return invalidText("policy", m.GetPolicy())
	}
	for _, l := range m.GetLimits() {
		switch {
		case !utf8text.Valid(l.GetRate()):
			return invalidText("limits.rate", l.GetRate())
		case !utf8text.Valid(l.GetName()):
			return invalidText("limits.name", l.GetName())
		case !utf8text.Valid(l.GetTimeZone()):
			return invalidText("limits.time_zone", l.GetTimeZone())
		}
	}
	return nil
}

func checkResponse(m *ratelimitv1.ShouldAllowResponse) error {
	for _, s := range m.GetStatuses() {
		if !utf8text.Valid(s.GetName()) {
			return invalidText("statuses.name", s.GetName())
		}
		if err := checkUnknown(s); err != nil {
			return err
		}
	}
	return checkUnknown(m) // what is unknown in its durations is dropped
}

func checkUnknown(m proto.Message) error {
	for unknown := m.ProtoReflect().GetUnknown(); len(unknown) > 0; {
		number, _, n := protowire.ConsumeField(unknown)
		if n < 0 || number > protowire.MaxValidNumber {
			return fmt.Errorf("%s holds a malformed unknown field", m.ProtoReflect().Descriptor().Name())
		}
		unknown = unknown[n:]
	}
	return nil
}

func invalidText(field, text string) error {
	return fmt.Errorf("%s %s is not UTF-8 text; encode it, as in base64, such as \"YWxpY2U\"", field, quote.Cut(text))
}
