package io.github.ratelimitd.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitd.api.v1.RateLimitServiceGrpc;
import io.github.ratelimitd.api.v1.ShouldAllowRequest;
import io.github.ratelimitd.api.v1.ShouldAllowResponse;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.parallel.Isolated;

@Isolated // it measures how long calls take
class ClientTest {
    private static List<Thread> start(int n, Runnable run) {
        var all = new ArrayList<Thread>();
        for (int i = 0; i < n; i++) {
            var thread = new Thread(run);
            thread.start();
            all.add(thread);
        }
        return all;
    }

    /** A daemon ends streams under load as they become old: no call may be lost, and none counted twice. */
    @Test
    void losesNoCallOfAnOldStream() throws Exception {
        try (var daemon = new Daemon("--connection-age=100ms", "--connection-grace=10s"); Client client = daemon.client().build()) {
            Limiter limiter = client.limiter("shop", Limit.rate("1_000_000/h"));
            var asked = new AtomicLong();
            var failed = new CopyOnWriteArrayList<Result>();
            long end = System.nanoTime() + Duration.ofSeconds(1).toNanos();
            for (Thread caller : start(16, () -> {
                while (System.nanoTime() < end) {
                    Result result = limiter.allow("alice");
                    if (!result.allowed()) {
                        failed.add(result);
                    }
                    asked.incrementAndGet();
                }
            })) {
                caller.join();
            }
            assertEquals(List.of(), failed);
            assertEquals(asked.get(), 1_000_000 - limiter.check("alice", 0).statuses().get(0).remaining());
        }
    }

    /** A daemon is killed, stopped and started under load: each call is answered in time, and calls are allowed again within a second. */
    @Test
    void recoversUnderLoad() throws Exception {
        try (var daemon = new Daemon(); Client client = daemon.client().timeout(Duration.ofMillis(50)).build()) {
            Limiter limiter = client.limiter("shop", Limit.rate("1_000_000_000/h"));
            var stopped = new AtomicBoolean();
            var answered = new AtomicLong();
            var slowest = new AtomicLong();
            List<Thread> callers = start(64, () -> {
                while (!stopped.get()) {
                    long began = System.nanoTime();
                    Result result = limiter.allow("alice");
                    slowest.accumulateAndGet(System.nanoTime() - began, Math::max);
                    if (result.error() == null) {
                        answered.incrementAndGet();
                    } else {
                        try {
                            Thread.sleep(1); // as the connection is refused at once
                        } catch (InterruptedException e) {
                            return;
                        }
                    }
                }
            });
            serves(answered, "the start", 5000);
            for (int i = 0; i < 2; i++) {
                daemon.kill();
                Thread.sleep(300); // under load, without a daemon
                daemon.start();
                serves(answered, "a kill", 1000);
                daemon.stop();
                daemon.start();
                serves(answered, "a restart", 1000);
            }
            stopped.set(true);
            for (Thread caller : callers) {
                caller.join();
            }
            long ms = Duration.ofNanos(slowest.get()).toMillis(); // 50, on a machine that is not busy
            assertTrue(ms < 3000, "a call took " + ms + " ms");
        }
    }

    private static void serves(AtomicLong answered, String after, long withinMs) throws InterruptedException {
        long end = System.nanoTime() + Duration.ofMillis(withinMs).toNanos();
        long before = answered.get();
        while (answered.get() < before + 100) {
            assertTrue(System.nanoTime() < end, "after " + after + ": " + (answered.get() - before) + " answers in " + withinMs + " ms");
            Thread.sleep(1);
        }
    }

    /** Calls go to all daemons, and to the one that is left. */
    @Test
    void asksSeveralDaemons() {
        try (var one = new Daemon(); var other = new Daemon();
                Client client = Client.builder(one.grpc(), other.grpc()).timeout(Duration.ofSeconds(5)).onFailure(FailurePolicy.DENY).maxDenials(0).unary().build()) {
            Limiter limiter = client.limiter("shop", Limit.rate("4/h"));
            long end = System.nanoTime() + Duration.ofSeconds(5).toNanos();
            int allowed = 0;
            for (int n = 0; allowed != 8 && System.nanoTime() < end; n++) { // until both are connected
                allowed = 0;
                for (int i = 0; i < 10; i++) {
                    allowed += limiter.allow("alice" + n).allowed() ? 1 : 0;
                }
            }
            assertEquals(8, allowed, "two daemons, each with 4 of everybody");
            one.kill();
            if (limiter.allow("bob").error() != null) { // it may have been on its way
                assertNull(limiter.allow("bob").error());
            }
        }
    }

    /** Calls go alone where streams are refused. */
    @Test
    void doesWithoutStreams() throws Exception {
        var calls = new AtomicLong();
        var server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0)).addService(new RateLimitServiceGrpc.RateLimitServiceImplBase() {
            @Override
            public void shouldAllow(ShouldAllowRequest request, StreamObserver<ShouldAllowResponse> out) {
                calls.incrementAndGet();
                out.onNext(ShouldAllowResponse.newBuilder().setAllowed(true).setReason(io.github.ratelimitd.api.v1.Reason.WITHIN_LIMIT).build());
                out.onCompleted();
            }
        }).build().start();
        try (Client client = Client.builder("127.0.0.1:" + server.getPort()).timeout(Duration.ofSeconds(5)).build()) {
            Limiter limiter = client.limiter("shop", Limit.rate("1/h"));
            for (int i = 0; i < 5; i++) {
                assertEquals(Reason.WITHIN_LIMIT, limiter.allow("alice").reason());
            }
            assertEquals(5, calls.get());
        } finally {
            server.shutdownNow().awaitTermination();
        }
    }

    @Test
    void answersAfterClose() {
        try (var daemon = new Daemon()) {
            Client client = daemon.client().build();
            Limiter limiter = client.limiter("shop", Limit.rate("1/h"));
            limiter.allow("alice");
            client.close();
            client.close();
            Result result = limiter.allow("alice");
            assertFalse(result.allowed());
            assertEquals(Status.Code.UNAVAILABLE, result.error().getStatus().getCode());
        }
    }

    @Test
    void tellsTheHook() {
        var told = new ArrayList<String>();
        try (var daemon = new Daemon(); Client client = daemon.client().onResult(e -> told.add(e.operation() + " " + e.identifier() + " " + e.result().reason())).build()) {
            Limiter limiter = client.limiter("shop", Limit.rate("1/h"));
            limiter.allow("alice");
            limiter.allow("alice");
            limiter.allow(Limiter.EXEMPT);
            limiter.reserve("bob", 1).commit(1);
            limiter.reset("alice");
        }
        assertEquals(List.of("allow alice WITHIN_LIMIT", "allow alice OVER_LIMIT", "allow \0exempt EXEMPT", "reserve bob WITHIN_LIMIT", "commit bob WITHIN_LIMIT", "reset alice UNSPECIFIED"), told);
    }

    @Test
    void refusesWrongInput() {
        assertEquals("ratelimitd: timeout PT-1S: must be above 0, such as Duration.ofMillis(50)", wrong(() -> Client.builder().timeout(Duration.ofSeconds(-1))));
        assertEquals("ratelimitd: address \"a:b:c\": write host:port, such as ratelimitd:8081", wrong(() -> Client.connect("a", "a:b:c")));
        assertEquals("ratelimitd: token: it has a character that no token has; give one token without spaces", wrong(() -> Client.builder().token("a b")));
        try (Client client = Client.builder("127.0.0.1:1").onFailure(FailurePolicy.DENY).build()) {
            Result result = client.limiter("shop", Limit.rate("1/h")).charge("alice", -5); // or else a charge of 2^64 - 5
            assertEquals("INVALID_ARGUMENT: cost -5: must be 0 or more, such as 1", result.error().getMessage());
        }
    }

    private static String wrong(org.junit.jupiter.api.function.Executable run) {
        return assertThrows(IllegalArgumentException.class, run).getMessage();
    }

    @Test
    void writesIdentifiersAsTheDaemonTakesThem() {
        assertEquals("a\uFFFDb", Limiter.wellFormed("a\uD800b"));
        assertEquals("\uD83D\uDC07", Limiter.wellFormed("\uD83D\uDC07"));
        assertEquals("x".repeat(1024), Limiter.wellFormed("x".repeat(1024)));
        assertEquals("sha256:".length() + 64, Limiter.wellFormed("\u00fc".repeat(513)).length());
    }
}
