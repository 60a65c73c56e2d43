package io.github.ratelimitd.client;

/** Why a result is what it is. */
public enum Reason {
    UNSPECIFIED,
    WITHIN_LIMIT,
    /** Denied. */
    OVER_LIMIT,
    /** The identifier has no limit. */
    EXEMPT,
    /** Every limit is "unlimited". */
    UNLIMITED,
    /** The daemon's store failed, and the daemon's on_error decided. */
    STORE_FAILURE,
    /** Over a limit that is in shadow mode. */
    SHADOW,
    /** There was no answer: the error of the result says why, and the client's failure policy decided. */
    FAILURE
}
