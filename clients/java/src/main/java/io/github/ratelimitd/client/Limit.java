package io.github.ratelimitd.client;

/**
 * A rate to hold an identifier to. It cannot be changed: each method returns another one.
 *
 * @param rate "100/min", "5/s", "10/30s", "1000/month" or "unlimited"
 * @param strategy how the rate is enforced
 * @param burst the capacity of TOKEN_BUCKET, LEAKY_BUCKET and GCRA; 0 is the strategy's default
 * @param name the name of the counter, so that it keeps what was consumed when its rate changes; "" is none
 * @param timeZone for FIXED_WINDOW with a rate of days or longer, "Europe/Berlin"; "" is UTC
 * @param anchorDay for a rate of months or years, the day on which they begin; 0 is the first
 * @param maxDebt the most debt that a charge may leave; null is no bound
 */
public record Limit(String rate, Strategy strategy, long burst, String name, String timeZone, int anchorDay, Long maxDebt) {
    /** Returns the limit of a rate alone: "100/min". */
    public static Limit rate(String rate) {
        return new Limit(rate, Strategy.FIXED_WINDOW, 0, "", "", 0, null);
    }

    public Limit strategy(Strategy strategy) {
        return new Limit(rate, strategy, burst, name, timeZone, anchorDay, maxDebt);
    }

    public Limit burst(long burst) {
        return new Limit(rate, strategy, burst, name, timeZone, anchorDay, maxDebt);
    }

    public Limit name(String name) {
        return new Limit(rate, strategy, burst, name, timeZone, anchorDay, maxDebt);
    }

    public Limit timeZone(String timeZone) {
        return new Limit(rate, strategy, burst, name, timeZone, anchorDay, maxDebt);
    }

    public Limit anchorDay(int anchorDay) {
        return new Limit(rate, strategy, burst, name, timeZone, anchorDay, maxDebt);
    }

    public Limit maxDebt(long maxDebt) {
        return new Limit(rate, strategy, burst, name, timeZone, anchorDay, maxDebt);
    }

    io.github.ratelimitd.api.v1.Limit message() {
        var message = io.github.ratelimitd.api.v1.Limit.newBuilder()
                .setRate(rate)
                .setStrategy(io.github.ratelimitd.api.v1.Strategy.valueOf(strategy.name()))
                .setBurst(burst)
                .setName(name)
                .setTimeZone(timeZone)
                .setAnchorDay(anchorDay);
        if (maxDebt != null) {
            message.setMaxDebt(maxDebt);
        }
        return message.build();
    }
}
