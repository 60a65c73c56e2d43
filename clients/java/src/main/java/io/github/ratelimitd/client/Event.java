package io.github.ratelimitd.client;

import java.time.Duration;

/**
 * One call and its result, for metrics and logs.
 *
 * @param operation "allow", "check", "charge", "refund", "reserve", "commit", "cancel" or "reset"
 * @param namespace that of the limiter
 * @param policy that of the limiter; "" if it has limits of its own
 * @param identifier as it was given. A label of a metric must not have it: there may be any number
 * @param result what the caller gets
 * @param took how long that took
 */
public record Event(String operation, String namespace, String policy, String identifier, Result result, Duration took) {}
