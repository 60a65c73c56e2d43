package io.github.ratelimitd.client;

/** The way in which a rate is enforced: see docs/strategies.md of the daemon. */
public enum Strategy {
    FIXED_WINDOW, SLIDING_WINDOW_COUNTER, SLIDING_WINDOW_LOG, TOKEN_BUCKET, LEAKY_BUCKET, GCRA
}
