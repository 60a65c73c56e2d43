package histogram

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

func written(tb testing.TB, m prometheus.Metric) *dto.Histogram {
	tb.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		tb.Fatal(err)
	}
	out.Histogram.CreatedTimestamp = nil
	return out.GetHistogram()
}

func collected(tb testing.TB, v *Vec) *dto.Histogram {
	tb.Helper()
	metrics := make(chan prometheus.Metric, 1)
	v.Collect(metrics)
	return written(tb, <-metrics)
}

// theirs is the client's histogram of the same buckets.
func theirs() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "theirs", Buckets: prometheus.ExponentialBuckets(1e-6, 2, classics), NativeHistogramBucketFactor: 1.1,
	})
}

// counts returns the native buckets by index, as the client joins spans that are
// close.
func counts(h *dto.Histogram) map[int32]int64 {
	of := map[int32]int64{}
	index, delta, n := int32(0), 0, int64(0)
	for _, span := range h.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			n += h.GetPositiveDelta()[delta]
			if n > 0 {
				of[index] = n
			}
			index++
			delta++
		}
	}
	return of
}

// TestAgreesWithTheClient observes durations of all sizes, the ends of all
// classic buckets among them, here and in the client's histogram.
func TestAgreesWithTheClient(t *testing.T) {
	v, want := NewVec("ours", "", "label", "a"), theirs()
	random := rand.New(rand.NewPCG(1, 2))
	observe := func(d time.Duration) {
		v.Of("a").Observe(d)
		want.Observe(d.Seconds())
	}
	for range 100_000 {
		observe(100 + time.Duration(random.Int64N(1<<random.IntN(38))))
	}
	for i := range classics {
		for d := range 3 {
			observe(time.Duration(classicEnd(i)) + time.Duration(d-1))
		}
	}
	got, wanted := collected(t, v), written(t, want)
	if got.GetSampleCount() != wanted.GetSampleCount() || got.GetSchema() != wanted.GetSchema() ||
		got.GetZeroThreshold() != wanted.GetZeroThreshold() || got.GetZeroCount() != wanted.GetZeroCount() {
		t.Errorf("got %v\nwant %v", got, wanted)
	}
	if ratio := got.GetSampleSum() / wanted.GetSampleSum(); ratio < 0.999999 || ratio > 1.000001 {
		t.Errorf("sum %v, want %v", got.GetSampleSum(), wanted.GetSampleSum())
	}
	for i, bucket := range wanted.GetBucket() {
		if !proto.Equal(bucket, got.GetBucket()[i]) {
			t.Errorf("bucket %v, want %v", got.GetBucket()[i], bucket)
		}
	}
	native, wantNative := counts(got), counts(wanted)
	if len(wantNative) < 100 {
		t.Fatalf("only %d native buckets", len(wantNative))
	}
	for index := int32(minIndex) - 10; index < maxIndex+10; index++ {
		if native[index] != wantNative[index] {
			t.Errorf("native bucket %d has %d, want %d", index, native[index], wantNative[index])
		}
	}
}

// TestQuantiles looks at what was observed between two times, whatever its label.
func TestQuantiles(t *testing.T) {
	v := NewVec("name", "help", "label", "a", "b")
	v.Of("a").Observe(time.Hour)
	before := v.Counts()
	if q := v.Counts().Since(before).Quantile(0.5); q != 0 {
		t.Errorf("of nothing: %v", q)
	}
	for i := range 100 {
		d := time.Millisecond
		if i >= 98 {
			d = time.Second
		}
		v.Of([]string{"a", "b"}[i%2]).Observe(d)
	}
	since := v.Counts().Since(before)
	for share, want := range map[float64]time.Duration{0.5: time.Millisecond, 0.99: time.Second} {
		if got := since.Quantile(share); got < want*9/10 || got > want*11/10 {
			t.Errorf("quantile %v: %v, want about %v", share, got, want)
		}
	}
	if q := v.Counts().Quantile(1); q < time.Minute {
		t.Errorf("the longest of all is %v", q)
	}
}

// TestBeyondTheEnds has what is shorter and longer than what is told apart.
func TestBeyondTheEnds(t *testing.T) {
	v := NewVec("ours", "", "label", "a")
	if got := collected(t, v); got.GetSampleCount() != 0 || len(got.GetPositiveSpan()) != 1 || len(got.GetBucket()) != classics {
		t.Errorf("an empty one is shown as %v", got)
	}
	for _, d := range []time.Duration{-1, 0, 1, time.Hour, 1<<63 - 1} {
		v.Of("a").Observe(d)
	}
	got := collected(t, v)
	if native := counts(got); got.GetSampleCount() != 5 || len(native) != 2 || native[minIndex] != 3 || native[maxIndex+1] != 2 {
		t.Errorf("native buckets %v of %v", native, got)
	}
	if first, last := got.GetBucket()[0], got.GetBucket()[classics-1]; first.GetCumulativeCount() != 3 || last.GetCumulativeCount() != 3 {
		t.Errorf("classic buckets %v", got.GetBucket())
	}
}

func TestEveryOneIsCounted(t *testing.T) {
	v := NewVec("ours", "", "label", "a", "b")
	const observers, each = 8, 20_000
	var wg sync.WaitGroup
	for range observers {
		wg.Go(func() {
			for range each {
				v.Of("a").Since(Start())
			}
		})
	}
	for range 100 {
		collectedTwo(t, v)
	}
	wg.Wait()
	if a, b := collectedTwo(t, v); a.GetSampleCount() != observers*each || b.GetSampleCount() != 0 || a.GetSampleSum() <= 0 {
		t.Errorf("counted %d and %d, want %d and 0", a.GetSampleCount(), b.GetSampleCount(), observers*each)
	}
}

func collectedTwo(tb testing.TB, v *Vec) (a, b *dto.Histogram) {
	metrics := make(chan prometheus.Metric, 2)
	v.Collect(metrics)
	return written(tb, <-metrics), written(tb, <-metrics)
}

// BenchmarkObserve compares it with the client's, on all processors.
func BenchmarkObserve(b *testing.B) {
	ours, client := NewVec("ours", "", "label", "a").Of("a"), theirs()
	for name, observe := range map[string]func(time.Duration){
		"ours":   ours.Observe,
		"client": func(d time.Duration) { client.Observe(d.Seconds()) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for d := time.Duration(1); pb.Next(); d = (d*7 + 11) & 0xfffff {
					observe(d)
				}
			})
		})
	}
}
