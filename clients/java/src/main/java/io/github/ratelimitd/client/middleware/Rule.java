package io.github.ratelimitd.client.middleware;

import java.util.List;
import java.util.Set;

/**
 * The limits of some requests. It cannot be changed: each method returns another one.
 *
 * @param methods those of the requests, such as "POST"; none are all
 * @param path exactly that of the requests, or with a slash at its end also what is below it; "" is all. Of gRPC,
 *     "/package.Service/Method", or "/package.Service/"
 * @param perMessage of gRPC, holds each message that a client sends to the limits, and not the call as a whole
 * @param steps are asked in order, and the first that denies answers. What those before it have taken is not given back: put
 *     first what denies most for the least
 */
public record Rule(Set<String> methods, String path, boolean perMessage, List<Step> steps) {
    /** A rule for all requests. */
    public static Rule all(Step... steps) {
        return path("", steps);
    }

    /** A rule for the requests of a path. */
    public static Rule path(String path, Step... steps) {
        return new Rule(Set.of(), path, false, List.of(steps));
    }

    /** Returns the rule for these methods alone. */
    public Rule methods(String... methods) {
        return new Rule(Set.of(methods), path, perMessage, steps);
    }

    /** Returns the rule for each message of a call of gRPC. */
    public Rule eachMessage() {
        return new Rule(methods, path, true, steps);
    }

    boolean matches(Request request) {
        if (!methods.isEmpty() && !methods.contains(request.method())) {
            return false;
        }
        String at = request.path();
        return path.isEmpty() || at.equals(path) || path.endsWith("/") && (at + "/").startsWith(path);
    }
}
