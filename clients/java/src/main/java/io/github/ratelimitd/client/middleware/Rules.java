package io.github.ratelimitd.client.middleware;

import io.github.ratelimitd.client.Limiter;
import io.github.ratelimitd.client.Result;
import java.util.ArrayList;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.function.Function;
import java.util.function.ToLongFunction;

/**
 * Which requests are held to which limits. The first rule that matches a request holds; a request that none matches has no
 * limit. It cannot be changed: each method returns another one.
 */
public final class Rules {
    /** Is told each result of a request, for metrics and logs. */
    public interface Hook {
        void told(Request request, Limiter limiter, Result result);
    }

    /** The identifier of all requests that have none, so that leaving it out frees nobody from a limit. */
    private static final String ANONYMOUS = "anonymous";

    private final List<Rule> rules;
    private final boolean shadow;
    private final Hook hook;

    private Rules(List<Rule> rules, boolean shadow, Hook hook) {
        this.rules = rules;
        this.shadow = shadow;
        this.hook = hook;
    }

    public static Rules of(Rule... rules) {
        return new Rules(List.of(rules), false, (request, limiter, result) -> {});
    }

    /** Returns rules that ask, tell the hook, and deny nobody: to try limits out. Responses say nothing of them. */
    public Rules shadow() {
        return new Rules(rules, true, hook);
    }

    /** Returns rules that tell a hook each result. */
    public Rules onResult(Hook hook) {
        return new Rules(rules, shadow, hook);
    }

    boolean isShadow() {
        return shadow;
    }

    /** Returns who makes a request, or null if no rule matches it. */
    Caller callerOf(Request request) {
        for (Rule rule : rules) {
            if (rule.matches(request)) {
                return new Caller(request, rule);
            }
        }
        return null;
    }

    /** A limiter and what it said. */
    record Asked(Limiter limiter, Result result) {}

    /** Who makes a request, under the identifiers that were found for it. It is safe for concurrent use. */
    public final class Caller {
        final Rule rule;
        private final Request request;
        private final List<String> identifiers = new ArrayList<>(); // of each step

        private Caller(Request request, Rule rule) {
            this.request = request;
            this.rule = rule;
            var found = new IdentityHashMap<Function<Request, String>, String>();
            for (Step step : rule.steps()) {
                identifiers.add(found.computeIfAbsent(step.by(), by -> {
                    String identifier = by.apply(request);
                    return identifier == null || identifier.isEmpty() ? ANONYMOUS : identifier;
                }));
            }
        }

        /** Returns the identifier that was found for a limiter, or null if the request does not go through it. */
        public String identifier(Limiter limiter) {
            for (int i = 0; i < identifiers.size(); i++) {
                if (rule.steps().get(i).limiter() == limiter) {
                    return identifiers.get(i);
                }
            }
            return null;
        }

        /**
         * Asks the limiters of the request again, for one more thing that its caller does on it, such as a message of a
         * WebSocket.
         */
        public Result allow(long cost) {
            return ask(step -> cost).last();
        }

        /** Asks the limiters for a request, or for one message of it. */
        Outcome ask(Request message) {
            return ask(step -> step.cost().applyAsLong(message));
        }

        private Outcome ask(ToLongFunction<Step> cost) {
            var all = new ArrayList<Asked>(rule.steps().size());
            for (int i = 0; i < rule.steps().size(); i++) {
                Step step = rule.steps().get(i);
                Result result = step.limiter().allow(identifiers.get(i), cost.applyAsLong(step));
                hook.told(request, step.limiter(), result);
                all.add(new Asked(step.limiter(), result));
                if (!result.allowed() && !shadow) {
                    return new Outcome(all, true);
                }
            }
            return new Outcome(all, false);
        }
    }
}
