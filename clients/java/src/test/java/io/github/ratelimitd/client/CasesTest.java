package io.github.ratelimitd.client;

import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import io.grpc.InsecureChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.nio.file.Files;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Runs the cases of clients/cases.json, which the clients of all languages run. clients/README.md says what the fields mean. */
class CasesTest {
    private static final Set<String> CASE_FIELDS = Set.of("name", "flags", "clock", "client", "limiter", "steps");
    private static final Set<String> STEP_FIELDS = Set.of("do", "identifier", "exempt", "identifier_times", "cost", "consumed_at", "max_ms", "save",
            "reservation", "actual", "callers", "each", "by", "to", "times", "cancel_after_ms", "eventually_ms", "want");

    static Stream<Arguments> cases() throws IOException {
        JsonObject file = new Gson().fromJson(Files.readString(Daemon.REPOSITORY.resolve("clients/cases.json")), JsonObject.class);
        return StreamSupport.stream(file.getAsJsonArray("cases").spliterator(), false).map(JsonElement::getAsJsonObject)
                .flatMap(c -> Stream.of(Arguments.of(c.get("name").getAsString(), false, c), Arguments.of(c.get("name").getAsString(), true, c)));
    }

    @ParameterizedTest(name = "{0}, alone: {1}")
    @MethodSource("cases")
    void passes(String name, boolean unary, JsonObject c) throws Exception {
        assertTrue(CASE_FIELDS.containsAll(c.keySet()), () -> "unknown fields in " + c.keySet());
        var flags = new ArrayList<String>();
        if (c.has("flags")) {
            c.getAsJsonArray("flags").forEach(flag -> flags.add(flag.getAsString()));
        }
        try (var daemon = new Daemon(!text(c, "clock").equals("real"), flags);
                Client client = client(daemon, c.has("client") ? c.getAsJsonObject("client") : new JsonObject(), unary)) {
            var run = new Run(daemon, limiter(client, c.getAsJsonObject("limiter")), new HashMap<>(), new HashMap<>());
            int i = 0;
            for (JsonElement step : c.getAsJsonArray("steps")) {
                run.step(i++, step.getAsJsonObject());
            }
        }
    }

    private static Client client(Daemon daemon, JsonObject o, boolean unary) throws IOException {
        Client.Builder b = Client.builder(daemon.grpc())
                .timeout(Duration.ofMillis(number(o, "timeout_ms", 60000)))
                .onFailure(text(o, "on_failure").equals("deny") ? FailurePolicy.DENY : FailurePolicy.ALLOW)
                .token(text(o, "token"))
                .credentials(InsecureChannelCredentials.create());
        if (!o.has("remember") || !o.get("remember").getAsBoolean()) {
            b.maxDenials(0);
        }
        if (unary) {
            b.unary();
        }
        if (o.has("tls")) {
            JsonObject files = o.getAsJsonObject("tls");
            var tls = TlsChannelCredentials.newBuilder();
            if (files.has("ca")) {
                tls.trustManager(Daemon.TESTDATA.resolve(text(files, "ca")).toFile());
            }
            if (files.has("cert")) {
                tls.keyManager(Daemon.TESTDATA.resolve(text(files, "cert")).toFile(), Daemon.TESTDATA.resolve(text(files, "key")).toFile());
            }
            b.credentials(tls.build());
        }
        return b.build();
    }

    private static Limiter limiter(Client client, JsonObject l) {
        if (l.has("policy")) {
            return client.policy(text(l, "namespace"), text(l, "policy"));
        }
        var limits = new ArrayList<Limit>();
        for (JsonElement e : l.getAsJsonArray("limits")) {
            JsonObject o = e.getAsJsonObject();
            Limit limit = Limit.rate(text(o, "rate")).burst(number(o, "burst", 0)).name(text(o, "name"));
            if (o.has("strategy")) {
                limit = limit.strategy(Strategy.valueOf(text(o, "strategy")));
            }
            if (o.has("max_debt")) {
                limit = limit.maxDebt(number(o, "max_debt", 0));
            }
            limits.add(limit);
        }
        return client.limiter(text(l, "namespace"), limits.toArray(Limit[]::new));
    }

    private static String text(JsonObject o, String field) {
        return o.has(field) ? o.get(field).getAsString() : "";
    }

    private static long number(JsonObject o, String field, long otherwise) {
        return o.has(field) ? o.get(field).getAsLong() : otherwise;
    }

    /** What a step did: the counts are those of a race. */
    private record Done(Result result, long allowed, long denied) {}

    private record Run(Daemon daemon, Limiter limiter, Map<String, Result> results, Map<String, Reservation> reservations) {
        void step(int i, JsonObject s) throws Exception {
            assertTrue(STEP_FIELDS.containsAll(s.keySet()), () -> "unknown fields in " + s.keySet());
            for (long n = number(s, "times", 1); n > 0; n--) {
                long end = System.nanoTime() + Duration.ofMillis(number(s, "eventually_ms", 0)).toNanos();
                while (true) {
                    long began = System.nanoTime();
                    Done done = act(s);
                    String wrong = s.has("want") ? wrong(s.getAsJsonObject("want"), done, Duration.ofNanos(System.nanoTime() - began)) : null;
                    if (wrong == null) {
                        break;
                    }
                    assertTrue(System.nanoTime() < end, "step " + i + ", " + s.get("do") + ": " + wrong + " in " + done.result);
                    Thread.sleep(5);
                }
            }
        }

        private Done act(JsonObject s) throws Exception {
            String identifier = s.has("exempt") ? Limiter.EXEMPT : text(s, "identifier").repeat((int) number(s, "identifier_times", 1));
            long cost = number(s, "cost", 1);
            Result result = Result.of(false, Reason.UNSPECIFIED);
            var called = new AtomicBoolean(true);
            Thread me = Thread.currentThread();
            Thread canceller = null;
            if (s.has("cancel_after_ms")) {
                canceller = new Thread(() -> {
                    try {
                        Thread.sleep(number(s, "cancel_after_ms", 0));
                    } catch (InterruptedException e) {
                        return;
                    }
                    if (called.get()) {
                        me.interrupt();
                    }
                });
                canceller.start();
            }
            switch (text(s, "do")) {
                case "allow" -> result = limiter.allow(identifier, cost);
                case "check" -> result = limiter.check(identifier, cost);
                case "charge" -> result = limiter.charge(identifier, cost);
                case "refund" -> result = limiter.refund(identifier, cost, s.has("consumed_at") ? results.get(text(s, "consumed_at")).decidedAt() : null);
                case "reserve" -> {
                    Reservation made = limiter.reserve(identifier, cost);
                    reservations.put(text(s, "save"), made);
                    result = made.result();
                }
                case "commit" -> result = reservations.get(text(s, "reservation")).commit(number(s, "actual", 0));
                case "cancel" -> result = reservations.get(text(s, "reservation")).cancel();
                case "reset" -> result = limiter.reset(identifier);
                case "wait" -> result = limiter.await(identifier, Duration.ofMillis(number(s, "max_ms", 0)), cost);
                case "race" -> {
                    return race(identifier, cost, (int) number(s, "callers", 1), number(s, "each", 1));
                }
                case "advance" -> daemon.advance(text(s, "by"));
                case "daemon" -> turn(text(s, "to"));
                default -> throw new IllegalArgumentException("a step does " + s.get("do"));
            }
            called.set(false);
            if (canceller != null) {
                canceller.interrupt();
                while (canceller.isAlive()) {
                    Thread.onSpinWait();
                }
                Thread.interrupted();
            }
            if (s.has("save")) {
                results.put(text(s, "save"), result);
            }
            return new Done(result, 0, 0);
        }

        private void turn(String to) throws Exception {
            switch (to) {
                case "kill" -> daemon.kill();
                case "stop" -> daemon.stop();
                case "start" -> daemon.start();
                case "pause" -> daemon.signal("STOP");
                case "resume" -> daemon.signal("CONT");
                default -> throw new IllegalArgumentException("a daemon is to " + to);
            }
        }

        private Done race(String identifier, long cost, int callers, long each) throws Exception {
            var pool = Executors.newFixedThreadPool(callers);
            var ready = new CountDownLatch(callers);
            var start = new CountDownLatch(1);
            var futures = new ArrayList<Future<List<Result>>>();
            for (int i = 0; i < callers; i++) {
                futures.add(pool.submit(() -> {
                    var mine = new ArrayList<Result>();
                    ready.countDown();
                    start.await();
                    for (long n = 0; n < each; n++) {
                        mine.add(limiter.allow(identifier, cost));
                    }
                    return mine;
                }));
            }
            ready.await();
            start.countDown();
            var all = new ArrayList<Result>();
            for (Future<List<Result>> future : futures) {
                all.addAll(future.get(1, TimeUnit.MINUTES));
            }
            pool.shutdown();
            long allowed = all.stream().filter(Result::allowed).count();
            Result one = all.stream().filter(r -> r.error() != null).findAny().orElse(all.get(0));
            return new Done(one, allowed, all.size() - allowed);
        }
    }

    /** Returns what of a result is not as a step wants it, or null. */
    private static String wrong(JsonObject want, Done done, Duration took) {
        Result r = done.result;
        Map<String, JsonElement> got = Map.of(
                "allowed", new JsonPrimitive(r.allowed()), "reason", new JsonPrimitive(r.reason().name()), "remembered", new JsonPrimitive(r.remembered()),
                "retry_after_us", micros(r.retryAfter()), "delay_us", micros(r.delay()),
                "allowed_count", new JsonPrimitive(done.allowed), "denied_count", new JsonPrimitive(done.denied));
        for (var field : want.entrySet()) {
            JsonElement value = field.getValue();
            boolean right = switch (field.getKey()) {
                case "error" -> {
                    JsonElement code = r.error() == null ? JsonNull.INSTANCE : new JsonPrimitive(r.error().getStatus().getCode().name());
                    yield value.isJsonArray() ? value.getAsJsonArray().contains(code) : value.equals(code);
                }
                case "error_has" -> r.error() != null && r.error().getMessage().contains(value.getAsString());
                case "within_ms" -> took.toMillis() <= value.getAsLong();
                case "at_least_ms" -> took.toMillis() >= value.getAsLong();
                case "statuses" -> right(r.statuses(), value.getAsJsonArray());
                default -> equal(got.get(field.getKey()), value);
            };
            if (!right) {
                return field.getKey() + " is not " + value + " after " + took.toMillis() + " ms";
            }
        }
        return null;
    }

    private static boolean right(List<LimitStatus> statuses, JsonArray want) {
        if (want.size() != statuses.size()) {
            return false;
        }
        for (int i = 0; i < want.size(); i++) {
            LimitStatus s = statuses.get(i);
            Map<String, JsonElement> got = Map.of(
                    "name", new JsonPrimitive(s.name()), "limit", new JsonPrimitive(s.limit()), "remaining", new JsonPrimitive(s.remaining()),
                    "allowed", new JsonPrimitive(s.allowed()), "reset_after_us", micros(s.resetAfter()), "retry_after_us", micros(s.retryAfter()));
            if (!want.get(i).getAsJsonObject().entrySet().stream().allMatch(field -> equal(got.get(field.getKey()), field.getValue()))) {
                return false;
            }
        }
        return true;
    }

    /** Compares numbers as numbers, whatever their type. */
    private static boolean equal(JsonElement got, JsonElement want) {
        if (got != null && got.isJsonPrimitive() && got.getAsJsonPrimitive().isNumber() && want.isJsonPrimitive() && want.getAsJsonPrimitive().isNumber()) {
            return got.getAsLong() == want.getAsLong();
        }
        return want.equals(got);
    }

    private static JsonElement micros(Duration d) {
        return d.equals(Result.NEVER) ? JsonNull.INSTANCE : new JsonPrimitive(d.toNanos() / 1000);
    }
}
