package codec

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/encoding"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// messages are all that the API sends, and one that it does not know.
var messages = []proto.Message{
	&ratelimitv1.ShouldAllowRequest{}, &ratelimitv1.ShouldAllowBatchRequest{}, &ratelimitv1.ResetRequest{},
	&ratelimitv1.ShouldAllowResponse{}, &ratelimitv1.ShouldAllowBatchResponse{}, &ratelimitv1.ResetResponse{},
	&healthpb.HealthCheckRequest{},
}

func fresh(m proto.Message) proto.Message { return m.ProtoReflect().New().Interface() }

// drawn returns a random message of the type of m.
func drawn(t *rapid.T, m proto.Message) proto.Message {
	out := m.ProtoReflect().New()
	fill(t, out)
	return out.Interface()
}

func fill(t *rapid.T, m protoreflect.Message) {
	if m.Descriptor().FullName() == "google.protobuf.Any" {
		packed, err := anypb.New(&errdetails.BadRequest{})
		if err != nil {
			t.Fatal(err)
		}
		proto.Merge(m.Interface(), packed)
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !rapid.Bool().Draw(t, "set") {
			continue
		}
		switch {
		case f.IsList():
			list := m.Mutable(f).List()
			for range rapid.IntRange(0, 3).Draw(t, "length") {
				list.Append(value(t, f, list.NewElement()))
			}
		default:
			m.Set(f, value(t, f, m.NewField(f)))
		}
	}
}

func value(t *rapid.T, f protoreflect.FieldDescriptor, fresh protoreflect.Value) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.MessageKind:
		fill(t, fresh.Message())
		return fresh
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.String().Draw(t, f.TextName()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(rapid.String().Draw(t, f.TextName())))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, f.TextName()))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32().Draw(t, f.TextName())))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, f.TextName()))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, f.TextName()))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, f.TextName()))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, f.TextName()))
	default:
		t.Fatalf("no values of %s for %s", f.Kind(), f.FullName())
		return fresh
	}
}

// TestSameAsStandard has each codec read what the other wrote.
func TestSameAsStandard(t *testing.T) {
	ours, standard := New(nil), encoding.GetCodecV2("proto")
	rapid.Check(t, func(t *rapid.T) {
		m := drawn(t, rapid.SampledFrom(messages).Draw(t, "message"))
		for _, pair := range [][2]encoding.CodecV2{{ours, standard}, {standard, ours}, {ours, ours}} {
			data, err := pair[0].Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			got := fresh(m)
			if err := pair[1].Unmarshal(data, got); err != nil {
				t.Fatal(err)
			}
			data.Free()
			if !proto.Equal(m, got) {
				t.Fatalf("%v, want %v", got, m)
			}
		}
	})
}

// TestKeepsUnknownFields decodes a message of a later version of the API.
func TestKeepsUnknownFields(t *testing.T) {
	var m ratelimitv1.ResetResponse
	later := []byte("\x0a\x03abc")
	if err := New(nil).Unmarshal(mem.BufferSlice{mem.SliceBuffer(later)}, &m); err != nil || !bytes.Equal(m.ProtoReflect().GetUnknown(), later) {
		t.Errorf("%v with unknown fields %q, want %q", err, m.ProtoReflect().GetUnknown(), later)
	}
}

// TestInvalidText has every string of every message be no UTF-8, one at a time.
// Those of requests are decoded, for the server to refuse.
func TestInvalidText(t *testing.T) {
	const bad = "\xc3("
	tested := 0
	// spoil calls check with m's root for each string below m, while it is bad.
	var spoil func(m protoreflect.Message, path string, check func(path string))
	spoil = func(m protoreflect.Message, path string, check func(path string)) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			path := path + "." + f.TextName()
			switch {
			case f.Kind() == protoreflect.StringKind:
				m.Set(f, protoreflect.ValueOfString(bad))
				check(path)
			case f.Kind() == protoreflect.MessageKind && f.IsList():
				spoil(m.Mutable(f).List().AppendMutable().Message(), path, check)
			case f.Kind() == protoreflect.MessageKind:
				spoil(m.Mutable(f).Message(), path, check)
			}
			m.Clear(f)
		}
	}
	for _, root := range messages {
		root := fresh(root)
		spoil(root.ProtoReflect(), string(root.ProtoReflect().Descriptor().Name()), func(path string) {
			tested++
			data, err := New(nil).Marshal(root)
			if err == nil {
				t.Errorf("%s is encoded as %q", path, data.Materialize())
			}
			wire := invalidWire(t, root, bad)
			if err := New(nil).Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, fresh(root)); (err == nil) != isRequest(root) {
				t.Errorf("%s is decoded: %v", path, err)
			}
		})
	}
	if tested < 15 {
		t.Errorf("%d strings were tested, the API has more", tested)
	}
}

func isRequest(m proto.Message) bool {
	return strings.HasSuffix(string(m.ProtoReflect().Descriptor().Name()), "Request") && m.ProtoReflect().Descriptor().ParentFile().Package() == "ratelimit.v1"
}

// invalidWire returns what a client that does not check text would send.
func invalidWire(t *testing.T, m proto.Message, bad string) []byte {
	t.Helper()
	const placeholder = "OK"
	valid := proto.Clone(m)
	replaceStrings(valid.ProtoReflect(), placeholder)
	wire, err := proto.Marshal(valid)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(wire, []byte(placeholder), []byte(bad))
}

func replaceStrings(m protoreflect.Message, text string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(text))
		case f.Kind() == protoreflect.MessageKind && f.IsList():
			for i := range v.List().Len() {
				replaceStrings(v.List().Get(i).Message(), text)
			}
		case f.Kind() == protoreflect.MessageKind:
			replaceStrings(v.Message(), text)
		}
		return true
	})
}

func TestInvalidTextNamesField(t *testing.T) {
	_, err := New(nil).Marshal(&ratelimitv1.ShouldAllowRequest{Identifier: "a\xff"})
	if err == nil || !strings.Contains(err.Error(), `identifier "a\xff" is not UTF-8`) {
		t.Error(err)
	}
}

// FuzzUnmarshal compares with the standard code.
func FuzzUnmarshal(f *testing.F) {
	for _, m := range []proto.Message{
		&ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{{Namespace: "n", Identifier: "i", Cost: proto.Uint64(3), DryRun: true, Limits: []*ratelimitv1.Limit{{Rate: "1/s", Strategy: 4, Burst: 5}}}}},
		&ratelimitv1.ShouldAllowBatchResponse{Results: []*ratelimitv1.ShouldAllowResult{
			{Result: &ratelimitv1.ShouldAllowResult_Response{Response: &ratelimitv1.ShouldAllowResponse{RetryAfter: durationpb.New(1), Statuses: []*ratelimitv1.LimitStatus{{Name: "n", Limit: 1 << 60}}}}},
			{Result: &ratelimitv1.ShouldAllowResult_Error{Error: status.New(3, "bad").Proto()}},
		}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range messages {
			ours, standard := fresh(m), fresh(m)
			if err := New(nil).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, ours); err != nil {
				continue // it may refuse more: a field of the wrong wire type
			}
			if err := proto.Unmarshal(data, standard); err != nil {
				// It may read more: a field number above 32 bits, or a bad text
				// that a later one replaces, or in a request. What it read must
				// be sound.
				if checkRequestText(ours) != nil {
					continue
				}
				again, err := New(nil).Marshal(ours)
				if err == nil {
					err = proto.Unmarshal(again.Materialize(), standard)
				}
				if err != nil || strings.Contains(fmt.Sprint(ours), "PANIC") {
					t.Fatalf("%T of %q is read as %v, which is not sound: %v", m, data, ours, err)
				}
				continue
			}
			discardUnknown(ours.ProtoReflect())
			discardUnknown(standard.ProtoReflect())
			if !proto.Equal(ours, standard) {
				t.Fatalf("%T of %q is read as %v, and by the standard code as %v", m, data, ours, standard)
			}
		}
	})
}

func discardUnknown(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() == protoreflect.MessageKind && f.IsList():
			for i := range v.List().Len() {
				discardUnknown(v.List().Get(i).Message())
			}
		case f.Kind() == protoreflect.MessageKind:
			discardUnknown(v.Message())
		}
		return true
	})
}
