package io.github.ratelimitd.client;

import java.time.Duration;

/**
 * What one limit says.
 *
 * @param name the limit's name; "" is none
 * @param limit the largest cost that it ever allows at once; {@link #UNLIMITED} of a rate that is "unlimited"
 * @param remaining the largest cost that it would allow now
 * @param resetAfter until it is wholly unused again
 * @param retryAfter if it denied, until it can allow the same cost, or {@link Result#NEVER}; otherwise zero
 * @param allowed by this limit alone
 */
public record LimitStatus(String name, long limit, long remaining, Duration resetAfter, Duration retryAfter, boolean allowed) {
    /** The limit of a rate that is "unlimited". */
    public static final long UNLIMITED = Long.MAX_VALUE;

    static LimitStatus of(io.github.ratelimitd.api.v1.LimitStatus in) {
        Duration retryAfter = in.hasRetryAfter() ? Result.duration(in.getRetryAfter()) : in.getAllowed() ? Duration.ZERO : Result.NEVER;
        return new LimitStatus(in.getName(), signed(in.getLimit()), signed(in.getRemaining()), Result.duration(in.getResetAfter()), retryAfter, in.getAllowed());
    }

    /** Returns an unsigned number, or the greatest long if it is more. No other limit than "unlimited" has such. */
    private static long signed(long unsigned) {
        return unsigned < 0 ? UNLIMITED : unsigned;
    }

    LimitStatus older(Duration age) {
        return new LimitStatus(name, limit, remaining, Result.left(resetAfter, age), Result.left(retryAfter, age), allowed);
    }
}
