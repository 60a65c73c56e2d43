package io.github.ratelimitd.client;

import io.github.ratelimitd.api.v1.RateLimitServiceGrpc;
import io.github.ratelimitd.api.v1.RateLimitServiceGrpc.RateLimitServiceBlockingStub;
import io.github.ratelimitd.api.v1.ShouldAllowRequest;
import io.github.ratelimitd.api.v1.ShouldAllowResponse;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.NameResolverRegistry;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;

/**
 * The connections to the daemons, which its limiters share. It is safe for concurrent use, and a program needs one.
 *
 * <pre>{@code
 * Client limits = Client.connect("ratelimitd:8081");
 * Limiter limiter = limits.limiter("checkout", Limit.rate("100/min"));
 * Result result = limiter.allow("user:42");
 * if (!result.allowed()) {
 *     // come back after result.retryAfter()
 * }
 * }</pre>
 */
public final class Client implements AutoCloseable {
    static final Status CLOSED = Status.UNAVAILABLE.withDescription("the client is closed");

    private static final System.Logger LOGGER = System.getLogger(Client.class.getName());
    /** How long the log is not told of another failure. */
    private static final long QUIET = Duration.ofSeconds(10).toNanos();
    /** How soon a connection that fails is tried again, and how often then. gRPC's own pauses grow from 1 s to two minutes. */
    private static final long FIRST_RETRY_MS = 50, RETRY_MS = 250;

    static {
        NameResolverRegistry.getDefaultRegistry().register(new Addresses());
    }

    private final ManagedChannel channel;
    private final RateLimitServiceBlockingStub api;
    private final ScheduledExecutorService timer;
    private final FailurePolicy onFailure;
    private final Duration timeout;
    private final Batcher batcher; // null: each call goes alone
    final Denials denials; // null: none are remembered
    final Consumer<Event> onResult; // null: nobody

    private final AtomicLong failures = new AtomicLong(); // since the log was last told of one
    private final AtomicLong told = new AtomicLong(System.nanoTime() - QUIET); // when that was

    /** Returns a client of the daemons at these addresses, host:port. None is 127.0.0.1:8081. */
    public static Client connect(String... addresses) {
        return builder(addresses).build();
    }

    /** Returns a builder of a client of the daemons at these addresses, host:port. None is 127.0.0.1:8081. */
    public static Builder builder(String... addresses) {
        return new Builder(List.of(addresses));
    }

    /** Says how to reach the daemons, and what to do when none answers. */
    public static final class Builder {
        private final List<String> addresses;
        private ChannelCredentials credentials = InsecureChannelCredentials.create();
        private String token = "";
        private Duration timeout = Duration.ofMillis(50);
        private FailurePolicy onFailure = FailurePolicy.ALLOW;
        private int maxDenials = 10_000;
        private boolean unary;
        private Consumer<Event> onResult;

        private Builder(List<String> addresses) {
            this.addresses = addresses.isEmpty() ? List.of("127.0.0.1:8081") : addresses;
        }

        /** TLS: {@code TlsChannelCredentials.create()}, or with files of yours by its builder. */
        public Builder credentials(ChannelCredentials credentials) {
            this.credentials = credentials;
            return this;
        }

        /** It is sent as a bearer token. Without TLS it can be read on the way. */
        public Builder token(String token) {
            if (!token.chars().allMatch(c -> c > ' ' && c <= '~')) {
                throw new IllegalArgumentException("ratelimitd: token: it has a character that no token has; give one token without spaces");
            }
            this.token = token;
            return this;
        }

        /** The longest that a call waits for its answer: 50 ms unless it is set. */
        public Builder timeout(Duration timeout) {
            if (timeout.isNegative() || timeout.isZero()) {
                throw new IllegalArgumentException("ratelimitd: timeout " + timeout + ": must be above 0, such as Duration.ofMillis(50)");
            }
            this.timeout = timeout;
            return this;
        }

        /** What a call is answered that gets no answer in time: ALLOW unless it is set. */
        public Builder onFailure(FailurePolicy onFailure) {
            this.onFailure = onFailure;
            return this;
        }

        /** How many denials are remembered: 10,000 unless it is set. 0 is none: see {@link Limiter#allow}. */
        public Builder maxDenials(int maxDenials) {
            this.maxDenials = maxDenials;
            return this;
        }

        /** Sends each call alone. Otherwise calls that are made at the same time share the messages of one stream. */
        public Builder unary() {
            unary = true;
            return this;
        }

        /** It is told every result, for metrics and logs. It must be quick, and is called by many threads. */
        public Builder onResult(Consumer<Event> onResult) {
            this.onResult = onResult;
            return this;
        }

        /** Returns the client. It begins to connect, and does not wait for it. */
        public Client build() {
            return new Client(this);
        }
    }

    private Client(Builder b) {
        onFailure = b.onFailure;
        timeout = b.timeout;
        onResult = b.onResult;
        denials = b.maxDenials > 0 ? new Denials(b.maxDenials) : null;
        channel = NettyChannelBuilder.forTarget(Addresses.target(b.addresses), b.credentials)
                .defaultLoadBalancingPolicy("round_robin")
                .defaultServiceConfig(Map.of("healthCheckConfig", Map.of("serviceName", "")))
                .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, 2000)
                .keepAliveTime(15, TimeUnit.SECONDS) // the daemon permits a ping every 10 s
                .keepAliveTimeout(2, TimeUnit.SECONDS)
                .keepAliveWithoutCalls(true)
                .idleTimeout(365, TimeUnit.DAYS) // never
                .userAgent("ratelimitd-java")
                .directExecutor() // what receives answers never blocks
                .build();
        Channel with = channel;
        if (!b.token.isEmpty()) {
            var headers = new Metadata();
            headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + b.token);
            with = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers));
        }
        api = RateLimitServiceGrpc.newBlockingStub(with);
        batcher = b.unary ? null : new Batcher(with);
        timer = Executors.newSingleThreadScheduledExecutor(run -> {
            var thread = new Thread(run, "ratelimitd-reconnect");
            thread.setDaemon(true);
            return thread;
        });
        timer.scheduleWithFixedDelay(channel::resetConnectBackoff, RETRY_MS, RETRY_MS, TimeUnit.MILLISECONDS);
        channel.getState(true);
        watch();
    }

    /** Tries again soon when all connections fail. The timer does so for each that does. */
    private void watch() {
        ConnectivityState state = channel.getState(false);
        if (state == ConnectivityState.SHUTDOWN) {
            return;
        }
        channel.notifyWhenStateChanged(state, this::watch);
        if (state == ConnectivityState.TRANSIENT_FAILURE) {
            try {
                timer.schedule(channel::resetConnectBackoff, FIRST_RETRY_MS, TimeUnit.MILLISECONDS);
            } catch (RejectedExecutionException e) {
                // the client is being closed
            }
        }
    }

    /** Closes the connections. Calls under way, and later ones, are answered by the failure policy. */
    @Override
    public void close() {
        timer.shutdownNow();
        if (batcher != null) {
            batcher.close();
        }
        channel.shutdownNow();
        boolean interrupted = Thread.interrupted(); // what is waited for takes some milliseconds
        try {
            channel.awaitTermination(5, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            interrupted = true;
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /**
     * Returns a limiter that holds identifiers to limits, from 1 to 16: a call is allowed if each of them allows it. Make it
     * once, and use it for all calls.
     */
    public Limiter limiter(String namespace, Limit... limits) {
        return new Limiter(this, namespace, List.of(limits), "", timeout);
    }

    /** Returns a limiter that holds identifiers to a policy of the daemon's configuration. */
    public Limiter policy(String namespace, String policy) {
        return new Limiter(this, namespace, List.of(), policy, timeout);
    }

    /** Returns what sends calls alone, each with this timeout. */
    RateLimitServiceBlockingStub alone(Duration timeout) {
        return api.withDeadlineAfter(timeout);
    }

    /** Returns the answer to a request. */
    ShouldAllowResponse decide(ShouldAllowRequest request, Duration timeout) {
        if (batcher == null) {
            return alone(timeout).shouldAllow(request);
        }
        long began = System.nanoTime();
        ShouldAllowResponse response = batcher.ask(request, timeout);
        return response != null ? response : alone(timeout.minusNanos(System.nanoTime() - began)).shouldAllow(request);
    }

    /** Returns the answer of the failure policy to a call that failed. */
    Result failed(StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.CANCELLED) { // and not of callers that went away
            log(error);
        }
        return Result.failed(onFailure == FailurePolicy.ALLOW, error);
    }

    private void log(StatusRuntimeException error) {
        failures.incrementAndGet();
        long now = System.nanoTime();
        long last = told.get();
        if (now - last < QUIET || !told.compareAndSet(last, now)) {
            return;
        }
        LOGGER.log(System.Logger.Level.WARNING, "ratelimitd gives no answer, so that the failure policy " + onFailure + " decides; calls: "
                + failures.getAndSet(0) + ", error: " + error.getMessage());
    }
}
