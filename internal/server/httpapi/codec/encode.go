package codec

import (
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ratelimitd/ratelimitd/internal/turns"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// AppendResponse appends m as JSON, with the fields that are false or 0. It reports false
// if m is unusual: a name needs an escape or is not UTF-8, there is no such reason, or a
// time is out of range. Then what it has appended is of no use.
func AppendResponse(b []byte, m *ratelimitv1.ShouldAllowResponse) (_ []byte, usual bool) {
	p := printer{out: b}
	p.response(m)
	return p.out, !p.unusual
}

// AppendBatch is AppendResponse for a batch. One with an error is unusual too.
func AppendBatch(b []byte, m *ratelimitv1.ShouldAllowBatchResponse) (_ []byte, usual bool) {
	p := printer{out: b}
	p.string(`{"results":[`)
	for i, result := range m.GetResults() {
		response := result.GetResponse()
		if response == nil {
			return p.out, false
		}
		turns.Yield(i)
		p.comma(i)
		p.string(`{"response":`)
		p.response(response)
		p.string(`}`)
	}
	p.string(`]}`)
	return p.out, !p.unusual
}

// A printer appends JSON to out.
type printer struct {
	out     []byte
	unusual bool // whether anything was that it does not know
}

func (p *printer) response(m *ratelimitv1.ShouldAllowResponse) {
	reason, ok := ratelimitv1.Reason_name[int32(m.GetReason())]
	p.unusual = p.unusual || !ok
	p.string(`{"allowed":`)
	p.bool(m.GetAllowed())
	p.string(`,"reason":"`)
	p.string(reason)
	p.string(`"`)
	p.duration(`,"retryAfter":"`, m.GetRetryAfter())
	p.duration(`,"delay":"`, m.GetDelay())
	p.string(`,"statuses":[`)
	for i, s := range m.GetStatuses() {
		p.comma(i)
		p.status(s)
	}
	p.string(`]`)
	p.time(`,"decidedAt":"`, m.GetDecidedAt())
	p.string(`}`)
}

func (p *printer) status(m *ratelimitv1.LimitStatus) {
	p.string(`{"name":"`)
	p.name(m.GetName())
	p.string(`","limit":"`)
	p.number(m.GetLimit())
	p.string(`","remaining":"`)
	p.number(m.GetRemaining())
	p.string(`"`)
	p.duration(`,"resetAfter":"`, m.GetResetAfter())
	p.duration(`,"retryAfter":"`, m.GetRetryAfter())
	p.string(`,"allowed":`)
	p.bool(m.GetAllowed())
	p.string(`}`)
}

func (p *printer) string(text string) { p.out = append(p.out, text...) }

func (p *printer) bool(is bool) { p.out = strconv.AppendBool(p.out, is) }

func (p *printer) number(n uint64) { p.out = strconv.AppendUint(p.out, n, 10) }

// comma separates the item i of a list from the one before it.
func (p *printer) comma(i int) {
	if i > 0 {
		p.string(`,`)
	}
}

// name appends a text without an escape.
func (p *printer) name(text string) {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' {
			p.unusual = true
		}
	}
	p.unusual = p.unusual || !utf8.ValidString(text)
	p.string(text)
}

// maxSeconds is more than any time of ours has, and within what protojson takes.
const maxSeconds = 1e11

// duration appends a field with a time that is not negative, such as "1.500s", if there
// is one.
func (p *printer) duration(field string, d *durationpb.Duration) {
	if d == nil {
		return
	}
	p.unusual = p.unusual || d.GetSeconds() < 0 || d.GetSeconds() > maxSeconds
	p.string(field)
	p.out = strconv.AppendInt(p.out, d.GetSeconds(), 10)
	p.fraction(d.GetNanos())
	p.string(`s"`)
}

// time appends a field with a time since 1970, in UTC and as RFC 3339 has it, if there is
// one.
func (p *printer) time(field string, t *timestamppb.Timestamp) {
	if t == nil {
		return
	}
	p.unusual = p.unusual || t.GetSeconds() < 0 || t.GetSeconds() > maxSeconds
	p.string(field)
	p.out = time.Unix(t.GetSeconds(), 0).UTC().AppendFormat(p.out, time.RFC3339)
	p.out = p.out[:len(p.out)-len("Z")]
	p.fraction(t.GetNanos())
	p.string(`Z"`)
}

// fraction appends the fraction of a second, of 0, 3, 6 or 9 digits.
func (p *printer) fraction(nanos int32) {
	if nanos <= 0 || nanos >= 1e9 {
		p.unusual = p.unusual || nanos != 0
		return
	}
	digits := 9
	for nanos%1000 == 0 {
		nanos /= 1000
		digits -= 3
	}
	p.string(".000000000"[:1+digits])
	for i := len(p.out) - 1; nanos > 0; i-- {
		p.out[i] = byte('0' + nanos%10)
		nanos /= 10
	}
}
