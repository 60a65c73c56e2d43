package io.github.ratelimitd.client;

import io.github.ratelimitd.api.v1.ShouldAllowResponse;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.util.List;

/**
 * The answer to one call.
 *
 * @param allowed whether the caller may do it
 * @param reason why
 * @param retryAfter of a denial, how long until the same call can be allowed, or {@link #NEVER}; zero if that is not known
 * @param delay how long to hold an allowed call of a LEAKY_BUCKET, so that calls leave evenly
 * @param statuses of each limit, in their order
 * @param decidedAt when the daemon's store decided, for a refund; null if no counter was asked
 * @param remembered whether a denial was repeated from memory, without a call
 * @param error why there was no answer, so that the failure policy decided; otherwise null
 */
public record Result(
        boolean allowed, Reason reason, Duration retryAfter, Duration delay, List<LimitStatus> statuses,
        Instant decidedAt, boolean remembered, StatusRuntimeException error) {
    /** The wait of a call that no wait can help, as its cost is above a limit's capacity. It is longer than any other. */
    public static final Duration NEVER = Duration.ofNanos(Long.MAX_VALUE);

    private static final Reason[] REASONS = Reason.values();

    static Result of(boolean allowed, Reason reason) {
        return new Result(allowed, reason, Duration.ZERO, Duration.ZERO, List.of(), null, false, null);
    }

    static Result failed(boolean allowed, StatusRuntimeException error) {
        Status status = error.getStatus();
        if (status.getCode() == Status.Code.UNKNOWN && status.getCause() instanceof IOException) { // gRPC has found its connection closed
            error = Status.UNAVAILABLE.withDescription(status.getDescription()).withCause(status.getCause()).asRuntimeException();
        }
        return new Result(allowed, Reason.FAILURE, Duration.ZERO, Duration.ZERO, List.of(), null, false, error);
    }

    static Result of(ShouldAllowResponse r) {
        int n = r.getReasonValue();
        Reason reason = n >= 0 && n < Reason.FAILURE.ordinal() ? REASONS[n] : Reason.UNSPECIFIED;
        Duration retryAfter = Duration.ZERO;
        if (r.hasRetryAfter()) {
            retryAfter = duration(r.getRetryAfter());
        } else if (reason == Reason.OVER_LIMIT && !r.getAllowed()) {
            retryAfter = NEVER;
        }
        Instant decidedAt = r.hasDecidedAt() ? Instant.ofEpochSecond(r.getDecidedAt().getSeconds(), r.getDecidedAt().getNanos()) : null;
        return new Result(r.getAllowed(), reason, retryAfter, duration(r.getDelay()), r.getStatusesList().stream().map(LimitStatus::of).toList(), decidedAt, false, null);
    }

    /** Returns this denial as it is when it is repeated so much later. */
    Result remembered(Duration age) {
        return new Result(allowed, reason, left(retryAfter, age), delay, statuses.stream().map(s -> s.older(age)).toList(), decidedAt, true, error);
    }

    /** Returns what is left of a wait after age. */
    static Duration left(Duration wait, Duration age) {
        if (wait.equals(NEVER)) {
            return NEVER;
        }
        Duration left = wait.minus(age);
        return left.isNegative() ? Duration.ZERO : left;
    }

    static Duration duration(com.google.protobuf.Duration d) {
        return Duration.ofSeconds(d.getSeconds(), d.getNanos());
    }
}
