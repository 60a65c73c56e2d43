package strategy

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// int64s draws integers from low to the greatest, of all magnitudes alike.
func int64s(low int64) *rapid.Generator[int64] {
	return rapid.OneOf(
		rapid.SampledFrom([]int64{max(low, 0), 1, 2, 3, 1_000_000_000, 31_622_400_000_000, math.MaxInt64 / 2, math.MaxInt64 - 1, math.MaxInt64}),
		rapid.Int64Range(low, 1<<20),
		rapid.Int64Range(low, 1<<45),
		rapid.Int64Range(low, math.MaxInt64),
	)
}

func TestMulDiv(t *testing.T) {
	tests := []struct{ a, b, c, d, quotient, remainder int64 }{
		{0, 0, 0, 1, 0, 0},
		{0, 5, 6, 7, 0, 6},
		{2, 3, 1, 4, 1, 3},
		{2, 3, 2, 4, 2, 0},
		{math.MaxInt64, 1, 0, 1, math.MaxInt64, 0},
		{math.MaxInt64, 1, 1, 1, math.MaxInt64, 0}, // one too many
		{math.MaxInt64, 1, 1, 2, 1 << 62, 0},       // 2^63 / 2
		{math.MaxInt64, math.MaxInt64, 0, math.MaxInt64, math.MaxInt64, 0}, // in 128 bits
		{math.MaxInt64, math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64, 1<<63 - 2},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64, 0}, // 2^63
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, 1, math.MaxInt64, 0},             // 2^126
		{1 << 62, 6, 0, 3, math.MaxInt64, 0},                                           // 2^63
		{1 << 62, 6, 0, 4, 3 << 61, 0},
		{1 << 62, 1 << 62, 0, 1 << 60, math.MaxInt64, 0},                      // 2^64
		{1 << 32, 1 << 32, 5, 1 << 33, 1 << 31, 5},                            // 2^64 + 5
		{1<<32 - 1, 1<<32 + 1, math.MaxInt64, 1 << 40, 25_165_823, 1<<40 - 2}, // carries
	}
	for _, tt := range tests {
		if q, r := mulDiv(tt.a, tt.b, tt.c, tt.d); q != tt.quotient || r != tt.remainder {
			t.Errorf("mulDiv(%d, %d, %d, %d) = %d, %d, want %d, %d", tt.a, tt.b, tt.c, tt.d, q, r, tt.quotient, tt.remainder)
		}
	}
}

func TestMulDivAgainstBig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := int64s(0).Draw(t, "a"), int64s(0).Draw(t, "b"), int64s(0).Draw(t, "c")
		d := int64s(1).Draw(t, "d")

		n := new(big.Int).Mul(big.NewInt(a), big.NewInt(b))
		n.Add(n, big.NewInt(c))
		quotient, remainder := n.QuoRem(n, big.NewInt(d), new(big.Int))
		if !quotient.IsInt64() {
			quotient.SetInt64(math.MaxInt64)
			remainder.SetInt64(0)
		}
		if q, r := mulDiv(a, b, c, d); q != quotient.Int64() || r != remainder.Int64() {
			t.Fatalf("mulDiv(%d, %d, %d, %d) = %d, %d, want %v, %v", a, b, c, d, q, r, quotient, remainder)
		}
	})
}

func TestMulDivCeil(t *testing.T) {
	tests := []struct{ a, b, c, d, want int64 }{
		{0, 0, 0, 1, 0},
		{0, 9, 0, 7, 0},
		{1, 1, 1, 7, 0},
		{1, 1, 0, 7, 1},
		{2, 3, 0, 3, 2},
		{2, 3, 1, 3, 2},
		{2, 3, 2, 3, 2},
		{2, 3, 3, 3, 1},
		{7, 1, 0, 3, 3},
		{math.MaxInt64, 1, 0, 1, math.MaxInt64},
		{math.MaxInt64, 1, 0, 2, 1 << 62},
		{math.MaxInt64, 1, 1, 2, 1<<62 - 1},
		{math.MaxInt64, math.MaxInt64, 0, math.MaxInt64, math.MaxInt64},
		{math.MaxInt64, math.MaxInt64, 1, math.MaxInt64, math.MaxInt64},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64 - 1},
		{1 << 62, 2, 0, 1, math.MaxInt64}, // 2^63
		{1 << 62, 2, 1, 1, math.MaxInt64}, // 2^63 - 1, by itself
		{1 << 62, 2, 2, 1, math.MaxInt64 - 1},
		{1 << 62, 8, 0, 2, math.MaxInt64}, // 2^64
		{math.MaxInt64, math.MaxInt64, 0, 1, math.MaxInt64},
		{1 << 32, 1 << 32, 1, 1 << 32, 1 << 32},     // borrows
		{1 << 32, 1 << 32, 0, 1<<32 - 1, 1<<32 + 2}, // 2^64 / (2^32 - 1) = 2^32 + 1 + 1 / (2^32 - 1)
	}
	for _, tt := range tests {
		if got := mulDivCeil(tt.a, tt.b, tt.c, tt.d); got != tt.want {
			t.Errorf("mulDivCeil(%d, %d, %d, %d) = %d, want %d", tt.a, tt.b, tt.c, tt.d, got, tt.want)
		}
	}
}

func TestMulDivCeilAgainstBig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := int64s(0).Draw(t, "a"), int64s(0).Draw(t, "b"), int64s(0).Draw(t, "c")
		d := int64s(1).Draw(t, "d")

		n := new(big.Int).Mul(big.NewInt(a), big.NewInt(b))
		if n.IsInt64() {
			c = min(c, n.Int64()) // which is asked of callers
		}
		n.Sub(n, big.NewInt(c))
		want, rest := n.QuoRem(n, big.NewInt(d), new(big.Int))
		if rest.Sign() > 0 {
			want.Add(want, big.NewInt(1))
		}
		if !want.IsInt64() {
			want.SetInt64(math.MaxInt64)
		}
		if got := mulDivCeil(a, b, c, d); got != want.Int64() {
			t.Fatalf("mulDivCeil(%d, %d, %d, %d) = %d, want %v", a, b, c, d, got, want)
		}
	})
}

func TestMicrosIsCutToTheGreatest(t *testing.T) {
	const most = math.MaxInt64 / 1000
	for _, tt := range []struct{ in, want int64 }{
		{0, 0}, {1, 1000}, {most, most * 1000}, {most + 1, math.MaxInt64}, {math.MaxInt64, math.MaxInt64},
	} {
		if got := micros(tt.in); int64(got) != tt.want {
			t.Errorf("micros(%d) = %d, want %d", tt.in, got, tt.want)
		}
	}
}
