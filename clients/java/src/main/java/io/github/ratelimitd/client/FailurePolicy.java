package io.github.ratelimitd.client;

/** What a call is answered when no daemon answers it. */
public enum FailurePolicy {
    /** Everybody passes: fail open. */
    ALLOW,
    /** Nobody passes: fail closed. */
    DENY
}
