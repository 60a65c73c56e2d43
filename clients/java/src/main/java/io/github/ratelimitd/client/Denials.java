package io.github.ratelimitd.client;

import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * The identifiers that were denied a short while ago, with their answers. A denial stands until its retryAfter: what others
 * consume can only put that off. It says nothing of another cost, nor of other limits.
 */
final class Denials {
    /** How long a denial is repeated: for so long a reset, or a refund, of another process may go unnoticed. */
    private static final long MAX_REMEMBERED = Duration.ofSeconds(1).toNanos();

    private record Key(String namespace, String identifier) {}

    /** What a limiter was answered to a call of asked, and until when that stands; in System.nanoTime(). */
    private record Denial(Limiter limiter, long cost, Result result, long asked, long until) {}

    /** A part of the memory, with a lock of its own: itself. */
    private static final class Shard {
        /** In the order in which they were remembered, so that the first has the least time left. */
        final Map<Key, Denial> known = new LinkedHashMap<>();
        /** Counts what may have freed an identifier: what was asked before is not remembered after. */
        long changes;
    }

    private final Shard[] shards = new Shard[16];
    private final int share;

    Denials(int most) {
        share = Math.max(1, most / shards.length);
        for (int i = 0; i < shards.length; i++) {
            shards[i] = new Shard();
        }
    }

    private Shard shardOf(Key key) {
        int hash = key.hashCode();
        return shards[(hash ^ hash >>> 16) & shards.length - 1];
    }

    /** Returns the denial of a call that is known to stand, or null. */
    Result recall(Limiter limiter, String identifier, long cost) {
        var key = new Key(limiter.namespace(), identifier);
        Shard shard = shardOf(key);
        Denial of;
        synchronized (shard) {
            of = shard.known.get(key);
        }
        long now = System.nanoTime();
        if (of == null || of.limiter != limiter || of.cost != cost || now - of.until >= 0) {
            return null;
        }
        return of.result.remembered(Duration.ofNanos(now - of.asked));
    }

    /** Returns how often something may have freed an identifier, which remember is told again. */
    long changes(Limiter limiter, String identifier) {
        Shard shard = shardOf(new Key(limiter.namespace(), identifier));
        synchronized (shard) {
            return shard.changes;
        }
    }

    /**
     * Keeps a denial. One that the daemon itself has from memory is not kept, lest it becomes older than MAX_REMEMBERED: it does
     * not say when it was decided.
     */
    void remember(Limiter limiter, String identifier, long cost, Result result, long asked, long changes) {
        if (result.allowed() || result.reason() != Reason.OVER_LIMIT || result.decidedAt() == null) {
            return;
        }
        long wait = Math.min(MAX_REMEMBERED, nanos(result.retryAfter()));
        for (LimitStatus status : result.statuses()) { // of several that denied, the first to change its answer
            if (!status.allowed()) {
                wait = Math.min(wait, nanos(status.retryAfter()));
            }
        }
        if (System.nanoTime() - asked >= wait) {
            return;
        }
        var key = new Key(limiter.namespace(), identifier);
        Shard shard = shardOf(key);
        synchronized (shard) {
            if (shard.changes != changes) {
                return;
            }
            shard.known.remove(key);
            if (shard.known.size() >= share) {
                var first = shard.known.keySet().iterator();
                first.next();
                first.remove();
            }
            shard.known.put(key, new Denial(limiter, cost, result, asked, asked + wait));
        }
    }

    /** Drops what is known of an identifier, which may have become free. */
    void forget(Limiter limiter, String identifier) {
        var key = new Key(limiter.namespace(), identifier);
        Shard shard = shardOf(key);
        synchronized (shard) {
            shard.changes++;
            shard.known.remove(key);
        }
    }

    /** Returns d in nanoseconds; one that is longer than a long can hold is as good as MAX_REMEMBERED. */
    private static long nanos(Duration d) {
        return d.getSeconds() > 1 ? MAX_REMEMBERED : d.toNanos();
    }
}
