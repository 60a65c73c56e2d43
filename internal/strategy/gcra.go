package strategy

// GCRA, the generic cell rate algorithm of ATM networks (ITU-T I.371, annex
// A), keeps the theoretical arrival time (TAT) of the next request and allows
// one that is not too early for it: now >= TAT - (burst - cost) x P/N.
//
// State: that of TOKEN_BUCKET. TAT is the instant at which the level is 0, so
// the condition says level + cost <= burst, and the two strategies differ in
// their default burst alone.

// gcraBurst is GCRA's default burst: requests are strictly spaced, one each P/N.
const gcraBurst = 1
