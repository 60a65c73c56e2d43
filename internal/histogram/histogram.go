// Package histogram has histograms of durations to which many processors can add
// at once.
//
// Those of the Prometheus client have each observation write to memory that all
// processors share: with two of them that was a tenth of what a message on a
// stream cost. Here each has a part of its own, and the parts are added up when
// somebody asks. What is shown is the same: classic buckets, and native ones for
// who scrapes those.
package histogram

import (
	"math"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// Native buckets are of Prometheus' schema 3: the one with index i ends at
	// 2^(i/8) seconds, and so each is 9% wider than the one before. All from
	// minIndex (60 ns) to maxIndex (256 s) are counted apart.
	schema             = 3
	minIndex, maxIndex = -24 << schema, 8 << schema

	// Classic ones end at 1 us, 2 us, 4 us and so on, to half a second.
	classics = 20

	// A cell is what lies between two ends of buckets of either kind.
	cells = maxIndex - minIndex + 1 + classics + 1

	// zeroThreshold is what the client has by default.
	zeroThreshold = prometheus.DefNativeHistogramZeroThreshold
)

// ends are the last nanoseconds of all cells but the last, which has no end.
var ends = func() (ends [cells - 1]uint64) {
	for i := range ends {
		if i < classics {
			ends[i] = classicEnd(i)
		} else {
			ends[i] = nativeEnd(minIndex + i - classics)
		}
	}
	slices.Sort(ends[:])
	return ends
}()

func classicEnd(i int) uint64 { return uint64(time.Microsecond) << i }

func nativeEnd(index int) uint64 {
	return uint64(float64(time.Second) * math.Exp2(float64(index)/(1<<schema)))
}

// firstCell is, by the bits that a number of nanoseconds has, the first cell
// that it can be in.
var firstCell = func() (first [65]int) {
	for n := range first {
		least := uint64(1) << n >> 1
		first[n], _ = slices.BinarySearch(ends[:], least)
	}
	return first
}()

// cellOf returns which cell a number of nanoseconds is in.
func cellOf(nanos uint64) int {
	i := firstCell[bits.Len64(nanos)]
	for i < len(ends) && ends[i] < nanos {
		i++
	}
	return i
}

// A Histogram counts durations. It is safe for concurrent use.
type Histogram struct {
	parts   []part
	dealt   atomic.Uint32 // how many times a part was given out
	mine    sync.Pool     // of *part: mostly the one that this processor had last
	created time.Time
}

type part struct {
	cells [cells]atomic.Uint64
	nanos atomic.Uint64
	_     [64]byte // keeps the next part out of this one's cache lines
}

func newHistogram() *Histogram {
	h := &Histogram{parts: make([]part, min(runtime.GOMAXPROCS(0), 64)), created: time.Now()}
	h.mine.New = func() any { return &h.parts[int(h.dealt.Add(1))%len(h.parts)] }
	return h
}

// Observe counts d.
func (h *Histogram) Observe(d time.Duration) {
	nanos := uint64(max(d, 0))
	p := h.mine.Get().(*part)
	p.cells[cellOf(nanos)].Add(1)
	p.nanos.Add(nanos)
	h.mine.Put(p)
}

// A Stopwatch knows when it was started.
type Stopwatch time.Duration

var epoch = time.Now()

// Start starts a Stopwatch. It reads the monotonic clock alone, where time.Now
// reads two.
func Start() Stopwatch { return Stopwatch(time.Since(epoch)) }

// Since counts the time since start.
func (h *Histogram) Since(start Stopwatch) {
	h.Observe(time.Since(epoch) - time.Duration(start))
}

// A Vec is a metric of Histograms, one for each value of a label.
type Vec struct {
	desc   *prometheus.Desc
	values []string
	of     []*Histogram
}

var _ prometheus.Collector = (*Vec)(nil)

// NewVec returns a Vec with a Histogram for each of values.
func NewVec(name, help, label string, values ...string) *Vec {
	v := &Vec{desc: prometheus.NewDesc(name, help, []string{label}, nil), values: values}
	for range values {
		v.of = append(v.of, newHistogram())
	}
	return v
}

// As returns a Vec that shows h, which is another's too, as the one of a value.
func (h *Histogram) As(name, help, label, value string) *Vec {
	return &Vec{desc: prometheus.NewDesc(name, help, []string{label}, nil), values: []string{value}, of: []*Histogram{h}}
}

// Of returns the Histogram of one of the values.
func (v *Vec) Of(value string) *Histogram { return v.of[slices.Index(v.values, value)] }

// Describe implements prometheus.Collector.
func (v *Vec) Describe(descs chan<- *prometheus.Desc) { descs <- v.desc }

// Collect implements prometheus.Collector.
func (v *Vec) Collect(metrics chan<- prometheus.Metric) {
	for i, h := range v.of {
		metrics <- metric{v.desc, prometheus.MakeLabelPairs(v.desc, v.values[i:i+1]), h}
	}
}

type metric struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	of     *Histogram
}

// Desc implements prometheus.Metric.
func (m metric) Desc() *prometheus.Desc { return m.desc }

// Write implements prometheus.Metric.
func (m metric) Write(out *dto.Metric) error {
	var counts [cells]uint64
	var nanos, total uint64
	for i := range m.of.parts {
		p := &m.of.parts[i]
		nanos += p.nanos.Load()
		for j := range counts {
			counts[j] += p.cells[j].Load()
		}
	}
	h := &dto.Histogram{
		Schema: new(int32(schema)), ZeroThreshold: new(float64(zeroThreshold)), ZeroCount: new(uint64(0)),
		CreatedTimestamp: timestamppb.New(m.of.created),
	}
	var native [maxIndex + 1 - minIndex + 1]uint64 // the last is of what has no end
	index, classic := 0, 0
	for i, n := range counts {
		total += n
		native[index] += n
		if i == len(ends) {
			break
		}
		if ends[i] == nativeEnd(minIndex+index) {
			index++
		}
		if classic < classics && ends[i] == classicEnd(classic) {
			h.Bucket = append(h.Bucket, &dto.Bucket{
				CumulativeCount: new(total), UpperBound: new(time.Duration(ends[i]).Seconds()),
			})
			classic++
		}
	}
	h.SampleCount, h.SampleSum = new(total), new(float64(nanos)/1e9)
	addNative(h, native[:])
	out.Label, out.Histogram = m.labels, h
	return nil
}

// addNative adds the native buckets, from minIndex on, as spans of such as have
// counted something, each with the difference from the one before.
func addNative(h *dto.Histogram, counts []uint64) {
	next, last := 0, int64(0) // the index after the last span, if there is one
	for i, n := range counts {
		if n == 0 {
			continue
		}
		index := minIndex + i
		if len(h.PositiveSpan) == 0 || index != next {
			h.PositiveSpan = append(h.PositiveSpan, &dto.BucketSpan{Offset: new(int32(index - next)), Length: new(uint32(0))})
		}
		*h.PositiveSpan[len(h.PositiveSpan)-1].Length++
		h.PositiveDelta = append(h.PositiveDelta, int64(n)-last)
		next, last = index+1, int64(n)
	}
	if len(h.PositiveSpan) == 0 { // says that it is native all the same
		h.PositiveSpan = []*dto.BucketSpan{{Offset: new(int32(0)), Length: new(uint32(0))}}
	}
}

// Counts are how many durations of which length were observed.
type Counts struct{ of [cells]uint64 }

// Counts returns what all Histograms of v have observed.
func (v *Vec) Counts() *Counts {
	c := new(Counts)
	for _, h := range v.of {
		for i := range h.parts {
			for j := range c.of {
				c.of[j] += h.parts[i].cells[j].Load()
			}
		}
	}
	return c
}

// Since returns those of c that before does not have, which was taken earlier.
func (c *Counts) Since(before *Counts) *Counts {
	since := new(Counts)
	for i := range c.of {
		since.of[i] = c.of[i] - before.of[i]
	}
	return since
}

// Quantile returns the length that a share of the durations does not exceed, or 0 without
// durations. Within a cell it takes them to be spread evenly.
func (c *Counts) Quantile(share float64) time.Duration {
	total := 0.0
	for _, n := range c.of {
		total += float64(n)
	}
	wanted, below := share*total, 0.0
	from := uint64(0)
	for i, n := range c.of {
		if i == len(ends) {
			break
		}
		if n > 0 && below+float64(n) >= wanted {
			return time.Duration(float64(from) + float64(ends[i]-from)*(wanted-below)/float64(n))
		}
		below, from = below+float64(n), ends[i]
	}
	if total == 0 {
		return 0
	}
	return time.Duration(from)
}
