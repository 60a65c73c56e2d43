package codec

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// elements returns n elements of a field, each of which holds value.
func elements(field protowire.Number, n int, value []byte) (data []byte) {
	for range n {
		data = protowire.AppendTag(data, field, protowire.BytesType)
		data = protowire.AppendBytes(data, value)
	}
	return data
}

// TestTooManyElements decodes messages that would take hundreds of times their
// size: one element too many is left of each, and all else that they hold.
func TestTooManyElements(t *testing.T) {
	const many = 100_000
	name := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "checkout")
	limits := append(elements(3, many, nil), name...) // a field after them
	for what, c := range map[string]struct {
		data []byte
		m    vtMessage
		left func() int
		want int
	}{
		"requests of a batch": batchCase(elements(1, many, nil), func(b *ratelimitv1.ShouldAllowBatchRequest) int { return len(b.GetRequests()) }, apiv1.MaxBatch+1),
		"limits in a batch": batchCase(append(elements(1, 1, name), elements(1, 1, limits)...), func(b *ratelimitv1.ShouldAllowBatchRequest) int {
			if len(b.GetRequests()) != 2 || b.GetRequests()[0].GetNamespace() != "checkout" || b.GetRequests()[1].GetNamespace() != "checkout" {
				t.Errorf("the requests are %v", b.GetRequests())
			}
			return len(b.GetRequests()[1].GetLimits())
		}, strategy.MaxLimits+1),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := New(nil).Unmarshal(mem.BufferSlice{mem.SliceBuffer(c.data)}, c.m); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		runtime.ReadMemStats(&after)
		if got := c.left(); got != c.want {
			t.Errorf("%s: %d are left, want %d", what, got, c.want)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
			t.Errorf("%s: %d bytes on the wire take %d", what, len(c.data), grown)
		}
	}

	alone, reset := &ratelimitv1.ShouldAllowRequest{}, &ratelimitv1.ResetRequest{}
	for _, m := range []vtMessage{alone, reset} {
		if err := New(nil).Unmarshal(mem.BufferSlice{mem.SliceBuffer(limits)}, m); err != nil {
			t.Error(err)
		}
	}
	if n, m := len(alone.GetLimits()), len(reset.GetLimits()); n != strategy.MaxLimits+1 || m != n || alone.GetNamespace() != "checkout" {
		t.Errorf("%d and %d limits are left, of %q", n, m, alone.GetNamespace())
	}
}

// TestTooManyFields has messages of many fields, in each message that a message has.
func TestTooManyFields(t *testing.T) {
	unknown := bytes.Repeat([]byte("\xf8\x07\x01"), maxFields+1)
	for what, c := range map[string]struct {
		data []byte
		m    vtMessage
	}{
		"a request":            {unknown, &ratelimitv1.ShouldAllowRequest{}},
		"a limit":              {elements(3, 1, unknown), &ratelimitv1.ShouldAllowRequest{}},
		"a reset":              {elements(3, 1, unknown), &ratelimitv1.ResetRequest{}},
		"a batch":              {unknown, &ratelimitv1.ShouldAllowBatchRequest{}},
		"a request in a batch": {elements(1, 1, unknown), &ratelimitv1.ShouldAllowBatchRequest{}},
		"limits in a batch":    {elements(1, 10, elements(3, 10, unknown[:len(unknown)/300*3])), &ratelimitv1.ShouldAllowBatchRequest{}},
		"empty requests":       {elements(1, maxFields+1, nil), &ratelimitv1.ShouldAllowBatchRequest{}},
	} {
		if err := New(nil).Unmarshal(mem.BufferSlice{mem.SliceBuffer(c.data)}, c.m); err == nil || !strings.Contains(err.Error(), "more than 200000 fields") {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
	largest := &ratelimitv1.ShouldAllowBatchRequest{}
	text := strings.Repeat("x", 128)
	for range apiv1.MaxBatch {
		r := &ratelimitv1.ShouldAllowRequest{Namespace: text, Identifier: text, Cost: new(uint64), DryRun: true}
		for range strategy.MaxLimits {
			r.Limits = append(r.Limits, &ratelimitv1.Limit{Rate: "1_000_000_000 per 366 days", Strategy: ratelimitv1.Strategy_GCRA, Burst: strategy.MaxBurst, Name: text})
		}
		largest.Requests = append(largest.Requests, r)
	}
	data, err := New(nil).Marshal(largest)
	if err == nil {
		err = New(nil).Unmarshal(data, &ratelimitv1.ShouldAllowBatchRequest{})
	}
	if err != nil {
		t.Errorf("the largest batch: %v", err)
	}
}

func batchCase(data []byte, left func(*ratelimitv1.ShouldAllowBatchRequest) int, want int) (c struct {
	data []byte
	m    vtMessage
	left func() int
	want int
}) {
	m := &ratelimitv1.ShouldAllowBatchRequest{}
	c.data, c.m, c.left, c.want = data, m, func() int { return left(m) }, want
	return c
}

// FuzzBounded holds that the bound changes no message within it, and that what
// the decoder refuses it refuses still.
func FuzzBounded(f *testing.F) {
	f.Add(elements(1, 3, elements(3, 2, nil)))
	f.Add(elements(1, 1, elements(3, strategy.MaxLimits+3, []byte{10, 1, 'x'})))
	f.Add([]byte{10, 200})
	f.Fuzz(func(t *testing.T, data []byte) {
		var whole, trimmed ratelimitv1.ShouldAllowBatchRequest
		wholeErr := proto.Unmarshal(data, &whole)
		text, trimmedErr := bounded(data, &trimmed)
		if trimmedErr == nil {
			trimmedErr = proto.Unmarshal(text, &trimmed)
		}
		if wholeErr == nil && trimmedErr != nil {
			t.Fatalf("the whole is valid, and with the bound: %v", trimmedErr)
		}
		if wholeErr != nil {
			return
		}
		for i, r := range trimmed.GetRequests() {
			of := whole.GetRequests()[i]
			of.Limits = of.GetLimits()[:min(len(of.GetLimits()), strategy.MaxLimits+1)]
			if !proto.Equal(of, r) {
				t.Fatalf("request %d is %v, want %v", i, r, of)
			}
		}
		if n, want := len(trimmed.GetRequests()), min(len(whole.GetRequests()), apiv1.MaxBatch+1); n != want {
			t.Fatalf("%d requests, want %d", n, want)
		}
	})
}
