package strategy

// GCRA is the generic cell rate algorithm of ATM networks (ITU-T I.371, annex A).
// It remembers the theoretical arrival time (TAT) of the next request, and allows
// a request that does not come too early for it:
// now >= TAT - (burst - cost) x P/N.
//
// State: the same as that of TOKEN_BUCKET. TAT is the instant at which the level
// is 0, so the condition means level + cost <= burst. The two strategies differ
// only in their default burst.

// gcraBurst is GCRA's default burst. It spaces requests strictly: one each P/N.
const gcraBurst = 1
