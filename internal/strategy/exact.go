package strategy

import (
	"math"
	"math/bits"
)

// mulDiv returns the quotient and the remainder of (a x b + c) / d. It computes in
// 128 bits, so the product cannot overflow. d must be positive, and no argument
// negative. A quotient that does not fit becomes math.MaxInt64, with remainder 0.
func mulDiv(a, b, c, d int64) (quotient, remainder int64) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	lo, carry := bits.Add64(lo, uint64(c), 0)
	hi += carry
	if hi == 0 && lo <= math.MaxInt64 {
		return int64(lo) / d, int64(lo) % d
	}
	if hi >= uint64(d) {
		return math.MaxInt64, 0
	}
	q, r := bits.Div64(hi, lo, uint64(d))
	if q > math.MaxInt64 {
		return math.MaxInt64, 0
	}
	return int64(q), int64(r)
}

// mulDivCeil returns (a x b - c) / d, rounded up, in the same way. c must not be
// greater than a x b.
func mulDivCeil(a, b, c, d int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	lo, borrow := bits.Sub64(lo, uint64(c), 0)
	hi -= borrow
	lo, carry := bits.Add64(lo, uint64(d-1), 0)
	hi += carry
	if hi >= uint64(d) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(d))
	return int64(min(q, math.MaxInt64))
}
