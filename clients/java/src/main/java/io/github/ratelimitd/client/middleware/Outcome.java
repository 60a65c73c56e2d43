package io.github.ratelimitd.client.middleware;

import io.github.ratelimitd.client.Reason;
import io.github.ratelimitd.client.Result;
import java.time.Duration;
import java.util.List;

/** What the limiters of one request have said. If it is denied, the last of them has denied it. */
record Outcome(List<Rules.Asked> all, boolean denied) {
    /** Returns the last result, which is that of the denial if it is denied. */
    Result last() {
        if (all.isEmpty()) {
            return new Result(true, Reason.UNLIMITED, Duration.ZERO, Duration.ZERO, List.of(), null, false, null);
        }
        Result last = all.get(all.size() - 1).result();
        return last.allowed() || denied ? last // or else it is in shadow mode
                : new Result(true, last.reason(), last.retryAfter(), last.delay(), last.statuses(), last.decidedAt(), last.remembered(), last.error());
    }

    /** Reports whether no limit has denied the request, but a failure policy. */
    boolean failed() {
        return denied && (last().reason() == Reason.FAILURE || last().reason() == Reason.STORE_FAILURE);
    }

    /** Waits for the longest delay of what was allowed, so that calls of a leaky bucket leave evenly. */
    void hold() throws InterruptedException {
        Duration longest = Duration.ZERO;
        for (Rules.Asked asked : all) {
            if (asked.result().delay().compareTo(longest) > 0) {
                longest = asked.result().delay();
            }
        }
        if (!longest.isZero()) {
            Thread.sleep(longest.toMillis(), longest.toNanosPart() % 1_000_000);
        }
    }
}
