package io.github.ratelimitd.client.middleware;

import io.github.ratelimitd.client.Limit;
import io.github.ratelimitd.client.LimitStatus;
import io.github.ratelimitd.client.Result;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What results say of limits, in the fields of draft-ietf-httpapi-ratelimit-headers-11. Their names are here alone.
 *
 * @param values the fields that a response has, by their names
 * @param violated the names of the limits that denied
 */
record Fields(Map<String, String> values, List<String> violated) {
    static final String QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded";

    private static final String RATE_LIMIT = "RateLimit";
    private static final String POLICY = "RateLimit-Policy";
    private static final String RETRY_AFTER = "Retry-After";
    /** The most that an Integer of RFC 9651 can be. */
    private static final long MAX_INTEGER = 999_999_999_999_999L;

    /** What a rate says after its count: a number of a unit. */
    private static final Pattern PERIOD = Pattern.compile("(?:[^/]*/|[^/]* per )\\s*([0-9_]*)\\s*([a-z]+)\\s*");
    private static final Map<String, Long> UNITS = units();

    private static Map<String, Long> units() {
        var all = new LinkedHashMap<String, Long>();
        List.of("s", "sec", "secs", "second", "seconds").forEach(name -> all.put(name, 1L));
        List.of("m", "min", "mins", "minute", "minutes").forEach(name -> all.put(name, 60L));
        List.of("h", "hr", "hrs", "hour", "hours").forEach(name -> all.put(name, 3600L));
        List.of("d", "day", "days").forEach(name -> all.put(name, 86_400L));
        List.of("w", "week", "weeks").forEach(name -> all.put(name, 604_800L));
        return Map.copyOf(all);
    }

    static Fields of(Outcome outcome) {
        var violated = new ArrayList<String>();
        var names = new ArrayList<String>();
        var policies = new StringBuilder();
        var states = new StringBuilder();
        var values = new LinkedHashMap<String, String>();
        for (Rules.Asked asked : outcome.all()) {
            List<Limit> limits = asked.limiter().limits();
            List<LimitStatus> statuses = asked.result().statuses();
            for (int i = 0; i < statuses.size(); i++) {
                LimitStatus status = statuses.get(i);
                if (status.limit() == LimitStatus.UNLIMITED) {
                    continue;
                }
                Limit limit = i < limits.size() ? limits.get(i) : null;
                String name = nameOf(status, limit, i);
                while (names.contains(name)) {
                    name += "#" + names.size();
                }
                names.add(name);
                parameter(item(policies, name), 'q', status.limit());
                long window = windowOf(limit);
                if (window > 0) {
                    parameter(policies, 'w', window);
                }
                parameter(item(states, name), 'r', status.remaining());
                if (!status.allowed()) {
                    violated.add(name);
                    if (!status.retryAfter().equals(Result.NEVER)) {
                        parameter(states, 't', seconds(status.retryAfter()));
                    }
                } else if (!outcome.denied() && !status.resetAfter().isZero()) {
                    parameter(states, 't', seconds(status.resetAfter()));
                }
            }
        }
        if (!names.isEmpty()) {
            values.put(RATE_LIMIT, states.toString());
            values.put(POLICY, policies.toString());
        }
        Duration retryAfter = outcome.last().retryAfter();
        if (outcome.denied() && !retryAfter.isZero() && !retryAfter.equals(Result.NEVER)) {
            values.put(RETRY_AFTER, Long.toString(seconds(retryAfter)));
        }
        return new Fields(values, violated);
    }

    /** Returns what the limit of a status is called; limit may be null. */
    private static String nameOf(LimitStatus status, Limit limit, int place) {
        if (!status.name().isEmpty()) {
            return status.name();
        }
        return limit != null ? limit.strategy().name().toLowerCase(Locale.ROOT) + ":" + limit.rate() : "limit-" + (place + 1);
    }

    /** Returns the period of a limit in seconds, if that is whole seconds and always as long; or else 0. */
    private static long windowOf(Limit limit) {
        if (limit == null || !limit.timeZone().isEmpty()) {
            return 0;
        }
        Matcher period = PERIOD.matcher(limit.rate().toLowerCase(Locale.ROOT));
        Long unit = period.matches() ? UNITS.get(period.group(2)) : null;
        String count = unit == null ? "" : period.group(1).replace("_", "");
        if (unit == null || count.length() > 9) {
            return 0;
        }
        return unit * (count.isEmpty() ? 1 : Long.parseLong(count));
    }

    private static void parameter(StringBuilder out, char key, long n) {
        out.append(';').append(key).append('=').append(Math.min(n, MAX_INTEGER));
    }

    /** Returns d in whole seconds, rounded up. */
    private static long seconds(Duration d) {
        return d.getSeconds() + (d.getNano() > 0 ? 1 : 0);
    }

    /**
     * Appends a name to a list as a String of RFC 9651. That holds printable ASCII alone: other bytes, and the percent sign, are
     * percent-encoded.
     */
    private static StringBuilder item(StringBuilder out, String name) {
        out.append(out.length() > 0 ? ", \"" : "\"");
        for (byte b : name.getBytes(StandardCharsets.UTF_8)) {
            if (b < ' ' || b > '~' || b == '%') {
                out.append(String.format("%%%02X", b));
            } else {
                out.append(b == '"' || b == '\\' ? "\\" : "").append((char) b);
            }
        }
        return out.append('"');
    }
}
