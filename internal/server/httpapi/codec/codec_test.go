package codec

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// texts are requests. Those before unusual are usual.
var texts = []string{
	`{}`,
	" {\r\n\t\"namespace\" : \"a\" , \"limits\" : [ ] } \n",
	`{"namespace":"n","identifier":"user:42","limits":[{"rate":"100/min"}]}`,
	`{"namespace":"","identifier":"é€😀` + "\x7f\u2028\ufffd" + `","policy":"gold","cost":0,"dryRun":true,"mode":"CHARGE"}`,
	`{"policy":"","cost":"18","dry_run":false,"mode":"mode_unspecified","limits":[{},{"rate":"5/s","strategy":"gcra","burst":7,"name":"x","maxDebt":"0"},{"max_debt":9999999999999999999,"burst":"3","strategy":"SLIDING_WINDOW_LOG"}]}`,
	`{"limits":[` + strings.Repeat(`{},`, 15) + `{}]}`,
}

var unusual = []string{
	``, `{`, `}`, `[]`, `null`, `{}{}`, `{} x`, `{"namespace"}`, `{"namespace":}`, `{"namespace":"a",}`, `{,}`, `{"namespace":"a" "policy":"b"}`,
	`{"namespace":"a","namespace":"b"}`, `{"cost":1,"cost":2}`, `{"dryRun":true,"dry_run":true}`, `{"limits":[],"limits":[]}`, `{"limits":[{"burst":1,"burst":1}]}`,
	`{"limits":[{"maxDebt":1,"max_debt":1}]}`, `{"namespace":null}`, `{"cost":null}`, `{"limits":null}`, `{"limits":[null]}`, `{"limits":{}}`, `{"limits":[{}`, `{"limits":[{},]}`, `{"limits":[{}}`,
	`{"namespce":"a"}`, `{"Namespace":"a"}`, `{"n\u0061mespace":"a"}`, `{"namespace":"\u0061"}`, `{"namespace":"\""}`, `{"namespace":"a\\"}`, "{\"namespace\":\"a\tb\"}", "{\"namespace\":\"\x00\"}", `{"namespace":"a}`, `{"namespace":5}`, `{namespace:"a"}`, `{'namespace':'a'}`,
	`{"cost":-1}`, `{"cost":-0}`, `{"cost":1.0}`, `{"cost":1e2}`, `{"cost":01}`, `{"cost":"01"}`, `{"cost":"1 "}`, `{"cost":" 1"}`, `{"cost":""}`, `{"cost":"1}`, `{"cost":"1"2}`, `{"cost":1x}`, `{"cost":+1}`, `{"cost":"1.0"}`,
	`{"cost":18446744073709551615}`, `{"cost":18446744073709551616}`, `{"cost":"99999999999999999999"}`, `{"cost":true}`, `{"cost":"1`, `{"cost":1`,
	`{"dryRun":"true"}`, `{"dryRun":1}`, `{"dryRun":truex}`, `{"dryRun":tru`, `{"dryRun":fals`,
	`{"mode":2}`, `{"mode":"Charge"}`, `{"mode":"charge "}`, `{"mode":""}`, `{"mode":"other"}`, "{\"mode\"\f:\"charge\"}", `{"limits":[{"strategy":4}]}`, `{"limits":[{"strategy":"Gcra"}]}`,
	`{"limits":[{"timeZone":"Europe/Berlin"}]}`, `{"limits":[{"anchorDay":5}]}`, `{"consumedAt":"2026-01-01T00:00:00Z"}`,
	`{"limits":[` + strings.Repeat(`{},`, 16) + `{}]}`,
	"\ufeff{}", "{}\u00a0", `{"@type":"x"}`, `{"[x]":1}`, `// x
	{}`,
}

// nameField is where the front takes names in lower case, before it asks protojson.
var nameField = regexp.MustCompile(`"(strategy|mode)"\s*:\s*"[a-z_]+"`)

func upperNames(text string) []byte {
	return nameField.ReplaceAllFunc([]byte(text), func(field []byte) []byte {
		colon := bytes.IndexByte(field, ':')
		return append(field[:colon:colon], bytes.ToUpper(field[colon:])...)
	})
}

// checkDecode compares both functions with protojson, and returns whether text is usual
// for any. to has the memory of another message.
func checkDecode(t interface{ Fatalf(string, ...any) }, text string) bool {
	one := &ratelimitv1.ShouldAllowRequest{Limits: []*ratelimitv1.Limit{{Rate: "x", Burst: 5, MaxDebt: new(uint64(3))}, nil, {Name: "y"}}}
	one.ResetVT()
	many := &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{proto.CloneOf(one), {Namespace: "z", Cost: new(uint64(3))}}}
	many.ResetVT()
	usual := false
	for _, tt := range []struct {
		got, want proto.Message
		usual     bool
	}{
		{one, new(ratelimitv1.ShouldAllowRequest), Request(text, one)},
		{many, new(ratelimitv1.ShouldAllowBatchRequest), Batch(text, many)},
	} {
		if !tt.usual {
			continue
		}
		usual = true
		if err := protojson.Unmarshal(upperNames(text), tt.want); err != nil || !proto.Equal(tt.got, tt.want) {
			t.Fatalf("%q is %v; protojson says %v, %v", text, tt.got, tt.want, err)
		}
	}
	return usual
}

func TestDecode(t *testing.T) {
	for _, text := range texts {
		if !checkDecode(t, text) {
			t.Errorf("%q is unusual", text)
		}
		if batch := `{"requests":[` + text + `,{},` + text + `]}`; !checkDecode(t, batch) {
			t.Errorf("%q is unusual", batch)
		}
		for cut := range text { // nothing that is not all there
			if checkDecode(t, text[:cut]) && strings.TrimSpace(text[:cut]) != strings.TrimSpace(text) {
				t.Errorf("%q is usual", text[:cut])
			}
		}
	}
	for _, text := range unusual {
		if checkDecode(t, text) || text != "" && checkDecode(t, `{"requests":[`+text+`]}`) {
			t.Errorf("%q is usual", text)
		}
	}
	for _, text := range []string{`{"requests":[],"requests":[]}`, `{"requests":[{}]`, `{"requests":null}`, `{"Requests":[]}`, `{"requests":[` + strings.Repeat(`{},`, 1000) + `{}]}`} {
		if checkDecode(t, text) {
			t.Errorf("%.50q is usual", text)
		}
	}
}

// FuzzDecode compares the two with protojson on any text.
func FuzzDecode(f *testing.F) {
	for _, text := range append(texts, unusual...) {
		f.Add(text)
		f.Add(`{"requests":[` + text + `]}`)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if utf8.ValidString(text) {
			checkDecode(t, text)
		}
	})
}

// checkEncode compares both functions with protojson, but for the spaces that it puts
// after commas in some programs, and returns whether m is usual.
func checkEncode(t interface{ Fatalf(string, ...any) }, m *ratelimitv1.ShouldAllowResponse) bool {
	batch := &ratelimitv1.ShouldAllowBatchResponse{}
	for range 2 {
		batch.Results = append(batch.Results, &ratelimitv1.ShouldAllowResult{Result: &ratelimitv1.ShouldAllowResult_Response{Response: m}})
	}
	for _, tt := range []struct {
		m      proto.Message
		encode func() ([]byte, bool)
	}{
		{m, func() ([]byte, bool) { return AppendResponse([]byte("x"), m) }},
		{batch, func() ([]byte, bool) { return AppendBatch([]byte("x"), batch) }},
	} {
		got, usual := tt.encode()
		if !usual {
			return false
		}
		text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(tt.m)
		want := bytes.NewBufferString("x")
		if err == nil {
			err = json.Compact(want, text)
		}
		if err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("%v is\n%s; protojson says\n%s, %v", tt.m, got, want, err)
		}
	}
	return true
}

func TestEncode(t *testing.T) {
	at := timestamppb.Timestamp{Seconds: 1767225600, Nanos: 5000}
	usual := []*ratelimitv1.ShouldAllowResponse{
		{},
		{Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT, Delay: &durationpb.Duration{Nanos: 1}, DecidedAt: &at, Statuses: []*ratelimitv1.LimitStatus{{}, {Name: "é\x7f\u2028", Limit: 1<<64 - 1, Remaining: 5, ResetAfter: &durationpb.Duration{Seconds: 60}, Allowed: true}}},
		{Reason: ratelimitv1.Reason_SHADOW, RetryAfter: &durationpb.Duration{Seconds: 1e9, Nanos: 999_999_999}, Statuses: []*ratelimitv1.LimitStatus{{RetryAfter: &durationpb.Duration{Nanos: 120_000_000}, ResetAfter: &durationpb.Duration{}}}},
	}
	for _, m := range usual {
		if !checkEncode(t, m) {
			t.Errorf("%v is unusual", m)
		}
	}
	for _, m := range []*ratelimitv1.ShouldAllowResponse{
		{Reason: 99}, {Statuses: []*ratelimitv1.LimitStatus{{Name: `a"b`}, {}}}, {Statuses: []*ratelimitv1.LimitStatus{{Name: "\xff"}, {}}}, {Statuses: []*ratelimitv1.LimitStatus{{Name: "\n"}}},
		{Delay: &durationpb.Duration{Seconds: -1}}, {Delay: &durationpb.Duration{Nanos: -1}}, {Delay: &durationpb.Duration{Nanos: 1e9}}, {Delay: &durationpb.Duration{Seconds: 1e12}},
		{DecidedAt: &timestamppb.Timestamp{Seconds: -1}}, {DecidedAt: &timestamppb.Timestamp{Seconds: 1e12}}, {DecidedAt: &timestamppb.Timestamp{Nanos: 1e9}},
	} {
		if checkEncode(t, m) {
			t.Errorf("%v is usual", m)
		}
	}
	failed := &ratelimitv1.ShouldAllowBatchResponse{Results: []*ratelimitv1.ShouldAllowResult{{}}}
	if _, usual := AppendBatch(nil, failed); usual {
		t.Error("a batch with an error is usual")
	}
}

func TestSameAsProtojson(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nanos := rapid.OneOf(rapid.SampledFrom([]int32{0, 1, 10, 1_000, 120_000, 1_000_000, 10_000_000, 999_999_999, -1, 1e9}), rapid.Int32Range(0, 1e9-1))
		duration := rapid.Custom(func(t *rapid.T) *durationpb.Duration {
			if rapid.Bool().Draw(t, "absent") {
				return nil
			}
			return &durationpb.Duration{Seconds: rapid.Int64Range(-1, 1e12).Draw(t, "seconds"), Nanos: nanos.Draw(t, "nanos")}
		})
		m := &ratelimitv1.ShouldAllowResponse{
			Allowed: rapid.Bool().Draw(t, "allowed"), Reason: ratelimitv1.Reason(rapid.Int32Range(0, 7).Draw(t, "reason")),
			RetryAfter: duration.Draw(t, "retry_after"), Delay: duration.Draw(t, "delay"),
		}
		if rapid.Bool().Draw(t, "decided") {
			m.DecidedAt = &timestamppb.Timestamp{Seconds: rapid.Int64Range(-1, 1e12).Draw(t, "at"), Nanos: nanos.Draw(t, "nanos")}
		}
		for range rapid.IntRange(0, 3).Draw(t, "statuses") {
			m.Statuses = append(m.Statuses, &ratelimitv1.LimitStatus{
				Name: rapid.String().Draw(t, "name"), Limit: rapid.Uint64().Draw(t, "limit"), Remaining: rapid.Uint64().Draw(t, "remaining"),
				ResetAfter: duration.Draw(t, "reset_after"), RetryAfter: duration.Draw(t, "limit's retry_after"), Allowed: rapid.Bool().Draw(t, "limit allows"),
			})
		}
		checkEncode(t, m)

		// What clients write: what protojson makes of a request.
		request := &ratelimitv1.ShouldAllowRequest{
			Namespace: rapid.StringMatching(`[ -~é]{0,9}`).Draw(t, "namespace"), Identifier: rapid.String().Draw(t, "identifier"), Policy: rapid.StringMatching(`[a-z]{0,3}`).Draw(t, "policy"),
			DryRun: rapid.Bool().Draw(t, "dry run"), Mode: ratelimitv1.Mode(rapid.Int32Range(0, 4).Draw(t, "mode")),
		}
		if rapid.Bool().Draw(t, "costs") {
			request.Cost = new(rapid.Uint64().Draw(t, "cost"))
		}
		for range rapid.IntRange(0, 18).Draw(t, "limits") {
			limit := &ratelimitv1.Limit{Rate: rapid.StringMatching(`[0-9]{1,3}/(s|min)`).Draw(t, "rate"), Strategy: ratelimitv1.Strategy(rapid.Int32Range(0, 7).Draw(t, "strategy")), Burst: rapid.Uint64().Draw(t, "burst")}
			request.Limits = append(request.Limits, limit)
		}
		options := protojson.MarshalOptions{EmitDefaultValues: rapid.Bool().Draw(t, "defaults"), UseProtoNames: rapid.Bool().Draw(t, "proto names"), Multiline: rapid.Bool().Draw(t, "lines")}
		text, err := options.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		checkDecode(t, string(text))
	})
}

func BenchmarkCodec(b *testing.B) {
	const text = `{"namespace":"checkout","identifier":"user:42","limits":[{"rate":"100/min","strategy":"TOKEN_BUCKET"}]}`
	reply := &ratelimitv1.ShouldAllowResponse{
		Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT, DecidedAt: &timestamppb.Timestamp{Seconds: 1767225600, Nanos: 5000},
		Statuses: []*ratelimitv1.LimitStatus{{Limit: 100, Remaining: 99, ResetAfter: &durationpb.Duration{Nanos: 600_000_000}, Allowed: true}},
	}
	b.Run("codec", func(b *testing.B) {
		b.ReportAllocs()
		var in ratelimitv1.ShouldAllowRequest
		var out []byte
		for b.Loop() {
			in.ResetVT()
			if !Request(text, &in) {
				b.Fatal("unusual")
			}
			out, _ = AppendResponse(out[:0], reply)
		}
	})
	b.Run("protojson", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := protojson.Unmarshal([]byte(text), new(ratelimitv1.ShouldAllowRequest)); err != nil {
				b.Fatal(err)
			}
			if _, err := (protojson.MarshalOptions{EmitDefaultValues: true}).Marshal(reply); err != nil {
				b.Fatal(err)
			}
		}
	})
}
