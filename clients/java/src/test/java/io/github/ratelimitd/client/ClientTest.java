package io.github.ratelimitd.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.ratelimitd.api.v1.RateLimitServiceGrpc;
import io.github.ratelimitd.api.v1.ShouldAllowRequest;
import io.github.ratelimitd.api.v1.ShouldAllowResponse;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BooleanSupplier;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

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
        try (var daemon = new Daemon("--connection-age=300ms", "--connection-grace=10s"); Client client = daemon.client().build()) {
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

    /** Waits until something holds, on however slow a machine. */
    private static void eventually(String what, BooleanSupplier holds) throws InterruptedException {
        for (long end = System.nanoTime() + Duration.ofMinutes(1).toNanos(); !holds.getAsBoolean(); Thread.sleep(1)) {
            assertTrue(System.nanoTime() < end, "not within a minute: " + what);
        }
    }

    private static void more(AtomicLong count, String what) throws InterruptedException {
        long before = count.get();
        eventually(what, () -> count.get() >= before + 100);
    }

    /**
     * A daemon is killed, stopped and paused under load: the failure policy answers while it is away, and calls are allowed
     * again when it is back. No call waits for ever.
     */
    /** The stream belongs to all callers, so it does not end with the call of a gRPC server in which it was opened. */
    @Test
    void outlivesTheCallThatCame() throws Exception {
        try (var daemon = new Daemon()) {
            for (int i = 0; i < 20; i++) {
                try (Client client = daemon.client().build(); Context.CancellableContext came = Context.current().withCancellation()) {
                    Limiter limiter = client.limiter("shop", Limit.rate("1_000_000/h"));
                    assertNull(came.call(() -> limiter.allow("alice")).error());
                    came.cancel(null);
                    for (int j = 0; j < 10; j++) {
                        assertNull(limiter.allow("alice").error());
                    }
                }
            }
        }
    }

    @Test
    void recoversUnderLoad() throws Exception {
        try (var daemon = new Daemon(); Client client = daemon.client().timeout(Duration.ofSeconds(1)).build()) {
            Limiter limiter = client.limiter("shop", Limit.rate("1_000_000_000/h"));
            var stopped = new AtomicBoolean();
            var allowed = new AtomicLong();
            var failed = new AtomicLong();
            var wrong = new CopyOnWriteArrayList<Result>();
            List<Thread> callers = start(64, () -> {
                while (!stopped.get()) {
                    Result result = limiter.allow("alice");
                    if (result.allowed() && result.error() == null) {
                        allowed.incrementAndGet();
                    } else if (!result.allowed() && result.reason() == Reason.FAILURE) {
                        failed.incrementAndGet();
                        LockSupport.parkNanos(1_000_000); // as the connection is refused at once
                    } else {
                        wrong.add(result);
                    }
                }
            });
            more(allowed, "answers after the start");
            for (int i = 0; i < 2; i++) {
                daemon.kill();
                more(failed, "failures after a kill");
                daemon.start();
                more(allowed, "answers after a kill");
                daemon.stop();
                more(failed, "failures after a stop");
                daemon.start();
                more(allowed, "answers after a stop");
            }
            daemon.signal("STOP");
            more(failed, "failures of a daemon that is paused");
            daemon.signal("CONT");
            more(allowed, "answers after a pause");
            stopped.set(true);
            for (Thread caller : callers) {
                caller.join();
            }
            assertEquals(List.of(), wrong);
        }
    }

    /** A daemon that is back is to be found within a second. By gRPC's own pauses, the tenth try comes after two minutes. */
    @Test
    void triesAgainSoon() throws Exception {
        var tries = new AtomicLong();
        try (var server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
                Client client = Client.connect("127.0.0.1:" + server.getLocalPort())) {
            start(1, () -> {
                while (true) {
                    try {
                        server.accept().close();
                        tries.incrementAndGet();
                    } catch (IOException e) {
                        return; // the test has ended
                    }
                }
            });
            client.limiter("shop", Limit.rate("1/h")).allow("alice");
            eventually("ten connections", () -> tries.get() >= 10);
        }
    }

    /** Calls go to all daemons, and to the one that is left. */
    @Test
    void asksSeveralDaemons() throws Exception {
        try (var one = new Daemon(); var other = new Daemon();
                Client client = Client.builder(one.grpc(), other.grpc()).timeout(Duration.ofMinutes(1)).onFailure(FailurePolicy.DENY).maxDenials(0).unary().build()) {
            Limiter limiter = client.limiter("shop", Limit.rate("4/h"));
            var names = new AtomicLong();
            eventually("both are connected, each with 4 of everybody", () -> {
                String name = "alice" + names.incrementAndGet();
                return IntStream.range(0, 10).filter(i -> limiter.allow(name).allowed()).count() == 8;
            });
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
        try (Client client = Client.builder("127.0.0.1:" + server.getPort()).timeout(Duration.ofMinutes(1)).build()) {
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
