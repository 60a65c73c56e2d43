package io.github.ratelimitd.client.middleware;

import io.github.ratelimitd.client.Limiter;
import java.util.Objects;
import java.util.function.Function;
import java.util.function.ToLongFunction;

/**
 * A limiter that a request goes through.
 *
 * @param limiter it is asked
 * @param by finds the identifier: see {@link Identifiers}. A function that several steps share is called once for a request
 * @param cost finds what the request costs
 */
public record Step(Limiter limiter, Function<Request, String> by, ToLongFunction<Request> cost) {
    public Step {
        Objects.requireNonNull(limiter, "ratelimitd: each step needs a limiter");
        Objects.requireNonNull(by, "ratelimitd: each step needs an identifier function");
        Objects.requireNonNull(cost, "ratelimitd: each step needs a cost function");
    }

    /** A step of the cost 1. */
    public Step(Limiter limiter, Function<Request, String> by) {
        this(limiter, by, request -> 1);
    }
}
