package io.github.ratelimitd.client;

import com.google.protobuf.ByteString;
import io.github.ratelimitd.api.v1.CancelRequest;
import io.github.ratelimitd.api.v1.CommitRequest;

/**
 * Work whose cost is known only when it is done. {@link Limiter#reserve} makes it; commit or cancel settles it. One that nobody
 * settles has cost its estimate.
 */
public final class Reservation {
    private final Limiter limiter;
    private final String identifier;
    private final Result result;
    private final byte[] id;

    Reservation(Limiter limiter, String identifier, Result result, byte[] id) {
        this.limiter = limiter;
        this.identifier = identifier;
        this.result = result;
        this.id = id;
    }

    /** Says whether the work may be done. */
    public Result result() {
        return result;
    }

    /**
     * Returns what settles the reservation: another process may do so with {@link Limiter#reservation}. It is null if there is
     * nothing to settle, as the work is denied or the identifier is exempt.
     */
    public byte[] id() {
        return id == null ? null : id.clone();
    }

    /**
     * Settles it with what was really used. It counts once, so that after an error it may be called again. If no daemon made the
     * reservation, as none answered and the failure policy allowed the work, it charges what was used.
     */
    public Result commit(long actual) {
        if (id == null) {
            return result.allowed() && result.reason() == Reason.FAILURE ? limiter.charge(identifier, actual) : result;
        }
        return limiter.settle("commit", identifier, unused -> {
            Limiter.refuseNegative(actual);
            return Result.of(limiter.client().alone(limiter.timeout())
                    .commit(CommitRequest.newBuilder().setReservation(ByteString.copyFrom(id)).setActual(actual).build()).getResponse());
        }, limiter.client()::failed);
    }

    /** Settles it, of which nothing was used. The result has the error, if it failed; then it may be called again. */
    public Result cancel() {
        if (id == null) {
            return Result.of(true, Reason.UNSPECIFIED);
        }
        return limiter.settle("cancel", identifier, unused -> {
            limiter.client().alone(limiter.timeout()).cancel(CancelRequest.newBuilder().setReservation(ByteString.copyFrom(id)).build());
            return Result.of(true, Reason.UNSPECIFIED);
        }, error -> Result.failed(false, error));
    }
}
