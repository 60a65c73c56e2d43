package io.github.ratelimitd.client;

import io.github.ratelimitd.api.v1.Mode;
import io.github.ratelimitd.api.v1.ReserveRequest;
import io.github.ratelimitd.api.v1.ReserveResponse;
import io.github.ratelimitd.api.v1.ResetRequest;
import io.github.ratelimitd.api.v1.ShouldAllowRequest;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.time.Instant;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Holds identifiers to limits, or to a policy. {@link Client#limiter} and {@link Client#policy} make it. It is safe for
 * concurrent use.
 *
 * <p>No call throws. If there is no answer, or the thread is interrupted, the client's failure policy decides, and the result
 * has the error.
 *
 * <p>An identifier that is longer than 1,024 bytes stands for itself by its SHA-256: so that nobody gets rid of a limit by a
 * name that the daemon would refuse.
 */
public final class Limiter {
    /**
     * The identifier of whoever has no limit: it is allowed without a call. No header and no address is EXEMPT, as it begins
     * with a zero byte.
     */
    public static final String EXEMPT = "\0exempt";

    /** How many bytes an identifier may have for the daemon. */
    private static final int MAX_IDENTIFIER = 1024;
    /** Spreads those who wait for the same instant, so that they do not all ask at once. */
    private static final Duration MAX_JITTER = Duration.ofMillis(100);

    private final Client client;
    private final String namespace;
    private final List<Limit> limits;
    private final String policy;
    private final Duration timeout;
    private final ShouldAllowRequest base;

    Limiter(Client client, String namespace, List<Limit> limits, String policy, Duration timeout) {
        this.client = client;
        this.namespace = namespace;
        this.limits = limits;
        this.policy = policy;
        this.timeout = timeout;
        var request = ShouldAllowRequest.newBuilder().setNamespace(namespace).setPolicy(policy);
        limits.forEach(limit -> request.addLimits(limit.message()));
        base = request.build();
    }

    /** Returns a limiter like this whose calls wait for their answer no longer than timeout. */
    public Limiter timeout(Duration timeout) {
        return new Limiter(client, namespace, limits, policy, timeout);
    }

    /** Returns the namespace that it is bound to. */
    public String namespace() {
        return namespace;
    }

    /** Returns the limits that it is bound to; none if it is bound to a policy. */
    public List<Limit> limits() {
        return limits;
    }

    /** Returns the policy that it is bound to; "" if it is bound to limits. */
    public String policy() {
        return policy;
    }

    /** Is {@link #allow(String, long)} with the cost 1. */
    public Result allow(String identifier) {
        return allow(identifier, 1);
    }

    /**
     * Asks whether identifier may do now what costs so many units, and consumes them if it may.
     *
     * <p>A denial is remembered until its retryAfter, for a second at most, and is repeated without a call.
     */
    public Result allow(String identifier, long cost) {
        return take("allow", identifier, cost, false);
    }

    /** Is {@link #check(String, long)} with the cost 1. */
    public Result check(String identifier) {
        return check(identifier, 1);
    }

    /** Is allow, but consumes nothing. With the cost 0 it is allowed, and says what is left. */
    public Result check(String identifier, long cost) {
        return take("check", identifier, cost, true);
    }

    /**
     * Consumes what has already happened, whatever is left: it may leave debt. The result is allowed if it was within the
     * limits.
     */
    public Result charge(String identifier, long cost) {
        return report("charge", identifier, ShouldAllowRequest.newBuilder().setCost(cost).setMode(Mode.CHARGE));
    }

    /**
     * Gives back what was consumed at an instant, the decidedAt of its result: it is in the window of then. Null is just now.
     */
    public Result refund(String identifier, long cost, Instant consumedAt) {
        var request = ShouldAllowRequest.newBuilder().setCost(cost).setMode(Mode.REFUND);
        if (consumedAt != null) {
            request.getConsumedAtBuilder().setSeconds(consumedAt.getEpochSecond()).setNanos(consumedAt.getNano());
        }
        return report("refund", identifier, request);
    }

    /** Forgets what identifier has consumed. The daemon must permit it. The result has the error, if it failed. */
    public Result reset(String identifier) {
        return settle("reset", identifier, id -> {
            client.alone(timeout).reset(ResetRequest.newBuilder().setNamespace(namespace).setIdentifier(id).addAllLimits(base.getLimitsList()).setPolicy(policy).build());
            return Result.of(true, Reason.UNSPECIFIED);
        }, error -> Result.failed(false, error));
    }

    /** Asks whether identifier may do now what will cost about so many units, and consumes them if it may. */
    public Reservation reserve(String identifier, long estimate) {
        long began = System.nanoTime();
        if (EXEMPT.equals(identifier)) {
            return new Reservation(this, identifier, tell("reserve", identifier, Result.of(true, Reason.EXEMPT), began), null);
        }
        Result result;
        byte[] id = null;
        try {
            refuseNegative(estimate);
            ReserveResponse response = client.alone(timeout).reserve(ReserveRequest.newBuilder()
                    .setRequest(base.toBuilder().setIdentifier(wellFormed(identifier)).setCost(estimate)).build());
            result = Result.of(response.getResponse());
            if (!response.getReservation().isEmpty()) {
                id = response.getReservation().toByteArray();
            }
        } catch (StatusRuntimeException e) {
            result = client.failed(e);
        }
        return new Reservation(this, identifier, tell("reserve", identifier, result, began), id);
    }

    /** Returns the reservation of an id, so that another process than the one that made it can settle it. */
    public Reservation reservation(String identifier, byte[] id) {
        return new Reservation(this, identifier, Result.of(true, Reason.UNSPECIFIED), id);
    }

    /** Is {@link #await(String, Duration, long)} with the cost 1. */
    public Result await(String identifier, Duration max) {
        return await(identifier, max, 1);
    }

    /**
     * Is allow for a caller that can wait, for as long as max: it asks again when a denial says to, a little later at random,
     * and holds an allowed call for its delay. It returns a denial at once if waiting is of no use, or would take longer. If the
     * thread is interrupted while it waits, the result is not allowed and has the error CANCELLED. (Each object of Java has a
     * method wait of its own, so that this one has another name.)
     */
    public Result await(String identifier, Duration max, long cost) {
        long began = System.nanoTime();
        while (true) {
            Result result = allow(identifier, cost);
            if (result.error() != null) {
                return result;
            }
            Duration left = max.minusNanos(System.nanoTime() - began);
            Duration pause = result.allowed() ? result.delay() : result.retryAfter();
            if (pause.isZero()) {
                return result;
            }
            if (pause.compareTo(left) > 0) {
                if (result.allowed()) { // its turn comes too late: somebody else may have it
                    refund(identifier, cost, result.decidedAt());
                    return new Result(false, Reason.OVER_LIMIT, pause, Duration.ZERO, result.statuses(), result.decidedAt(), false, null);
                }
                return result;
            }
            if (!result.allowed()) {
                long most = Math.min(Math.min(MAX_JITTER.toNanos(), pause.toNanos() / 10), left.minus(pause).toNanos());
                pause = pause.plusNanos(ThreadLocalRandom.current().nextLong(most + 1));
            }
            try {
                sleep(pause);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                return new Result(false, result.reason(), result.retryAfter(), result.delay(), result.statuses(), result.decidedAt(), false, Batcher.INTERRUPTED.asRuntimeException());
            }
            if (result.allowed()) {
                return result;
            }
        }
    }

    static void sleep(Duration pause) throws InterruptedException {
        Thread.sleep(pause.toMillis(), pause.toNanosPart() % 1_000_000);
    }

    /** Asks for a cost, and may answer from memory. */
    private Result take(String operation, String identifier, long cost, boolean dryRun) {
        long began = System.nanoTime();
        if (EXEMPT.equals(identifier)) {
            return tell(operation, identifier, Result.of(true, Reason.EXEMPT), began);
        }
        String id = wellFormed(identifier);
        Denials denials = client.denials;
        long changes = 0;
        if (denials != null) {
            Result known = denials.recall(this, id, cost);
            if (known != null) {
                return tell(operation, identifier, known, began);
            }
            changes = denials.changes(this, id);
        }
        var request = ShouldAllowRequest.newBuilder(base).setIdentifier(id).setDryRun(dryRun);
        if (cost != 1) {
            request.setCost(cost);
        }
        Result result = ask(request.build());
        if (denials != null) {
            denials.remember(this, id, cost, result, began, changes);
        }
        return tell(operation, identifier, result, began);
    }

    /** Has the daemon count what may free identifier. */
    private Result report(String operation, String identifier, ShouldAllowRequest.Builder request) {
        if (EXEMPT.equals(identifier)) {
            return tell(operation, identifier, Result.of(true, Reason.EXEMPT), System.nanoTime());
        }
        return settle(operation, identifier, id -> ask(request.mergeFrom(base).setIdentifier(id).build()), client::failed);
    }

    interface Call {
        Result of(String identifier);
    }

    interface Failure {
        Result of(StatusRuntimeException error);
    }

    /** Makes a call that may free identifier, or answers its failure. */
    Result settle(String operation, String identifier, Call call, Failure failure) {
        long began = System.nanoTime();
        String id = wellFormed(identifier);
        forget(id);
        Result result;
        try {
            result = call.of(id);
        } catch (StatusRuntimeException e) {
            result = failure.of(e);
        } finally {
            forget(id);
        }
        return tell(operation, identifier, result, began);
    }

    /** Returns the answer to a request, or that of the failure policy. */
    private Result ask(ShouldAllowRequest request) {
        try {
            refuseNegative(request.getCost());
            return Result.of(client.decide(request, timeout));
        } catch (StatusRuntimeException e) {
            return client.failed(e);
        }
    }

    /** Refuses what would be a very large cost to the daemon, whose costs have no sign. */
    static void refuseNegative(long cost) {
        if (cost < 0) {
            throw Status.INVALID_ARGUMENT.withDescription("cost " + cost + ": must be 0 or more, such as 1").asRuntimeException();
        }
    }

    private void forget(String identifier) {
        if (client.denials != null) {
            client.denials.forget(this, identifier);
        }
    }

    Client client() {
        return client;
    }

    Duration timeout() {
        return timeout;
    }

    /** Returns a result, of which it tells whoever wants to know. */
    private Result tell(String operation, String identifier, Result result, long began) {
        if (client.onResult != null) {
            client.onResult.accept(new Event(operation, namespace, policy, identifier, result, Duration.ofNanos(System.nanoTime() - began)));
        }
        return result;
    }

    /** Returns identifier as the daemon takes it. */
    static String wellFormed(String identifier) {
        if (identifier == null) {
            return ""; // the daemon refuses it
        }
        if (identifier.codePoints().anyMatch(c -> c >= Character.MIN_SURROGATE && c <= Character.MAX_SURROGATE)) { // half a character
            identifier = identifier.codePoints().map(c -> c >= Character.MIN_SURROGATE && c <= Character.MAX_SURROGATE ? 0xFFFD : c)
                    .collect(StringBuilder::new, StringBuilder::appendCodePoint, StringBuilder::append).toString();
        }
        if (identifier.length() * 3L <= MAX_IDENTIFIER) {
            return identifier;
        }
        byte[] text = identifier.getBytes(StandardCharsets.UTF_8);
        return text.length <= MAX_IDENTIFIER ? identifier : "sha256:" + HexFormat.of().formatHex(sha256(text));
    }

    static byte[] sha256(byte[] text) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(text);
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("each Java has SHA-256", e);
        }
    }
}
