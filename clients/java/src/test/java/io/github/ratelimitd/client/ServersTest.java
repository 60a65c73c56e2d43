package io.github.ratelimitd.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.RetryInfo;
import io.github.ratelimitd.api.v1.RateLimitServiceGrpc;
import io.github.ratelimitd.api.v1.ShouldAllowBatchRequest;
import io.github.ratelimitd.api.v1.ShouldAllowBatchResponse;
import io.github.ratelimitd.api.v1.ShouldAllowRequest;
import io.github.ratelimitd.api.v1.ShouldAllowResponse;
import io.github.ratelimitd.client.middleware.Identifiers;
import io.github.ratelimitd.client.middleware.LimitFilter;
import io.github.ratelimitd.client.middleware.LimitInterceptor;
import io.github.ratelimitd.client.middleware.Request;
import io.github.ratelimitd.client.middleware.Rule;
import io.github.ratelimitd.client.middleware.Rules;
import io.github.ratelimitd.client.middleware.Step;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.ConnectException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.eclipse.jetty.ee10.servlet.FilterHolder;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Runs the middleware in the servers that people run, and the programs that the documents show. */
class ServersTest {
    private static final HttpClient HTTP = HttpClient.newHttpClient();

    private static HttpResponse<String> ask(String method, String url, String... headers) throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(url)).method(method, HttpRequest.BodyPublishers.noBody());
        if (headers.length > 0) {
            request.headers(headers);
        }
        return HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
    }

    private static String field(HttpResponse<?> response, String name) {
        return response.headers().firstValue(name).orElse("");
    }

    /** Jetty, with a filter. */
    private static final class Web implements AutoCloseable {
        final org.eclipse.jetty.server.Server server = new org.eclipse.jetty.server.Server(new InetSocketAddress("127.0.0.1", 0));
        final String url;

        Web(LimitFilter filter) throws Exception {
            var handler = new ServletContextHandler();
            handler.addFilter(new FilterHolder(filter), "/*", EnumSet.of(DispatcherType.REQUEST));
            handler.addServlet(new ServletHolder(new Messages()), "/*");
            server.setHandler(handler);
            server.start();
            url = "http://127.0.0.1:" + server.getURI().getPort();
        }

        @Override
        public void close() throws Exception {
            server.stop();
        }
    }

    /** Says how many of three more messages its caller may send. */
    private static final class Messages extends HttpServlet {
        private static final long serialVersionUID = 1;

        @Override
        protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
            var caller = LimitFilter.callerOf(request);
            int allowed = 0;
            for (int i = 0; caller != null && request.getRequestURI().equals("/messages") && i < 3; i++) {
                allowed += caller.allow(1).allowed() ? 1 : 0;
            }
            response.getWriter().print("hello " + allowed);
        }
    }

    @Test
    void filtersRequests() throws Exception {
        try (var daemon = new Daemon(); Client client = daemon.client().build()) {
            var found = new AtomicInteger();
            Function<Request, String> by = request -> {
                found.incrementAndGet();
                return request.header("X-User");
            };
            Limiter many = client.limiter("web", Limit.rate("100/min").name("many"), Limit.rate("unlimited"));
            Limiter few = client.limiter("web", Limit.rate("3 per 5 minutes"));
            Limiter month = client.limiter("web", Limit.rate("1/month").name("m\u00fc\"%"));
            Rules rules = Rules.of(
                    Rule.path("/free", new Step(few, request -> Limiter.EXEMPT)),
                    Rule.path("/month", new Step(month, by)),
                    Rule.path("/costly/", new Step(few, by, request -> Long.parseLong(request.header("X-Cost")))),
                    Rule.path("", new Step(many, by), new Step(few, by)).methods("GET"));
            try (var web = new Web(new LimitFilter(rules))) {
                HttpResponse<String> response = ask("GET", web.url + "/any", "X-User", "alice");
                assertEquals("hello 0", response.body());
                assertEquals(1, found.get());
                assertEquals("\"many\";r=99;t=60, \"fixed_window:3 per 5 minutes\";r=2;t=300", field(response, "RateLimit"));
                assertEquals("\"many\";q=100;w=60, \"fixed_window:3 per 5 minutes\";q=3;w=300", field(response, "RateLimit-Policy"));
                assertEquals("", field(response, "Retry-After"));
                assertEquals("hello 1", ask("GET", web.url + "/messages", "X-User", "alice").body());

                response = ask("GET", web.url + "/any", "X-User", "alice");
                assertEquals(429, response.statusCode());
                assertEquals("application/problem+json", field(response, "Content-Type"));
                assertEquals("{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\"title\":\"over the limit\",\"status\":429,"
                        + "\"violated-policies\":[\"fixed_window:3 per 5 minutes\"]}\n", response.body());
                assertEquals("300", field(response, "Retry-After"));
                assertEquals("\"many\";r=94, \"fixed_window:3 per 5 minutes\";r=0;t=300", field(response, "RateLimit"));

                assertEquals(200, ask("POST", web.url + "/any", "X-User", "alice").statusCode());
                for (int i = 0; i < 5; i++) {
                    assertEquals(200, ask("GET", web.url + "/free").statusCode());
                }
                assertEquals(200, ask("GET", web.url + "/any/../costly/./7", "X-Cost", "3").statusCode());
                assertEquals(429, ask("GET", web.url + "/any").statusCode(), "who has no name shares one");
                assertEquals("\"m%C3%BC\\\"%25\";q=1", field(ask("GET", web.url + "/month"), "RateLimit-Policy"));
                daemon.kill();
                response = ask("GET", web.url + "/any", "X-User", "carol");
                assertEquals(503, response.statusCode());
                assertEquals("{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503}\n", response.body());
            }
        }
    }

    @Test
    void deniesInShadowAndInOnesOwnWay() throws Exception {
        try (var daemon = new Daemon(); Client client = daemon.client().build()) {
            Rules rules = Rules.of(Rule.all(new Step(client.limiter("web", Limit.rate("0/h")), Identifiers.clientAddress())));
            var told = new ArrayList<Reason>();
            try (var web = new Web(new LimitFilter(rules.onResult((request, limiter, result) -> told.add(result.reason())).shadow()))) {
                HttpResponse<String> response = ask("GET", web.url);
                assertEquals(200, response.statusCode());
                assertEquals("", field(response, "RateLimit"));
                assertEquals(List.of(Reason.OVER_LIMIT), told);
            }
            try (var web = new Web(new LimitFilter(rules, (request, response, result) -> response.sendError(418, result.reason().name())))) {
                assertEquals(418, ask("GET", web.url).statusCode());
            }
            Limiter bucket = client.limiter("web", Limit.rate("10/s").strategy(Strategy.LEAKY_BUCKET));
            try (var web = new Web(new LimitFilter(bucket, Identifiers.clientAddress()))) {
                ask("GET", web.url);
                long began = System.nanoTime();
                assertEquals(200, ask("GET", web.url).statusCode());
                assertTrue(System.nanoTime() - began >= Duration.ofMillis(90).toNanos(), "it is held for its delay");
            }
        }
    }

    /** A service whose stream says how many messages have come. */
    private static final class Service extends RateLimitServiceGrpc.RateLimitServiceImplBase {
        final CompletableFuture<Throwable> cancelled = new CompletableFuture<>();

        @Override
        public void shouldAllow(ShouldAllowRequest request, StreamObserver<ShouldAllowResponse> out) {
            out.onNext(ShouldAllowResponse.getDefaultInstance());
            out.onCompleted();
        }

        @Override
        public StreamObserver<ShouldAllowBatchRequest> shouldAllowStream(StreamObserver<ShouldAllowBatchResponse> out) {
            return new StreamObserver<>() {
                @Override
                public void onNext(ShouldAllowBatchRequest request) {
                    out.onNext(ShouldAllowBatchResponse.getDefaultInstance());
                }

                @Override
                public void onError(Throwable error) {
                    cancelled.complete(error);
                }

                @Override
                public void onCompleted() {
                    out.onCompleted();
                }
            };
        }
    }

    @Test
    void interceptsCalls() throws Exception {
        var service = new Service();
        Server server = null;
        ManagedChannel channel = null;
        try (var daemon = new Daemon(); Client client = daemon.client().build()) {
            Limiter limiter = client.limiter("grpc", Limit.rate("4/min").name("calls"));
            var by = Identifiers.firstOf(Identifiers.header("x-user"), Identifiers.clientAddress());
            Rules rules = Rules.of(
                    Rule.path("/ratelimit.v1.RateLimitService/ShouldAllowStream", new Step(limiter, by)).eachMessage(),
                    Rule.path("/ratelimit.v1.RateLimitService/", new Step(limiter, by, request -> ((ShouldAllowRequest) request.content()).getCost())));
            server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0)).addService(service).intercept(new LimitInterceptor(rules)).build().start();
            channel = NettyChannelBuilder.forAddress("127.0.0.1", server.getPort()).usePlaintext().build();
            var trailers = new AtomicReference<Metadata>();
            var stub = RateLimitServiceGrpc.newBlockingStub(channel).withInterceptors(MetadataUtils.newCaptureMetadataInterceptor(new AtomicReference<>(), trailers));
            ShouldAllowRequest three = ShouldAllowRequest.newBuilder().setCost(3).build();
            stub.shouldAllow(three);
            assertEquals("\"calls\";r=1;t=60", trailers.get().get(Metadata.Key.of("ratelimit", Metadata.ASCII_STRING_MARSHALLER)));
            var denied = assertThrows(StatusRuntimeException.class, () -> stub.shouldAllow(three));
            assertEquals("RESOURCE_EXHAUSTED: over the limit calls", denied.getMessage());
            assertEquals("60", denied.getTrailers().get(Metadata.Key.of("retry-after", Metadata.ASCII_STRING_MARSHALLER)));
            assertEquals(60, StatusProto.fromThrowable(denied).getDetails(0).unpack(RetryInfo.class).getRetryDelay().getSeconds());

            var user = new Metadata();
            user.put(Metadata.Key.of("x-user", Metadata.ASCII_STRING_MARSHALLER), "bob");
            var ended = new CompletableFuture<Throwable>();
            var answers = new AtomicInteger();
            var stream = RateLimitServiceGrpc.newStub(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(user)).shouldAllowStream(new StreamObserver<>() {
                @Override
                public void onNext(ShouldAllowBatchResponse response) {
                    answers.incrementAndGet();
                }

                @Override
                public void onError(Throwable error) {
                    ended.complete(error);
                }

                @Override
                public void onCompleted() {
                    ended.complete(null);
                }
            });
            for (int i = 0; i < 6; i++) {
                stream.onNext(ShouldAllowBatchRequest.getDefaultInstance());
            }
            assertEquals(Status.Code.RESOURCE_EXHAUSTED, Status.fromThrowable(ended.get(60, TimeUnit.SECONDS)).getCode());
            assertEquals(4, answers.get());
            assertNotNull(service.cancelled.get(60, TimeUnit.SECONDS), "the service is told");
            daemon.kill();
            assertEquals(Status.Code.UNAVAILABLE, assertThrows(StatusRuntimeException.class, () -> stub.shouldAllow(three)).getStatus().getCode());
        } finally {
            if (channel != null) {
                channel.shutdownNow();
            }
            if (server != null) {
                server.shutdownNow().awaitTermination();
            }
        }
    }

    /** Runs a program from its source, until close. */
    private record Program(Process process, String url) implements AutoCloseable {
        static Program start(Path source, String url, String... environment) throws Exception {
            var builder = new ProcessBuilder(System.getProperty("java.home") + "/bin/java", "-cp", System.getProperty("java.class.path"), source.toString()).inheritIO();
            for (int i = 0; i < environment.length; i += 2) {
                builder.environment().put(environment[i], environment[i + 1]);
            }
            var program = new Program(builder.start(), url);
            try {
                program.await();
                return program;
            } catch (Throwable e) {
                program.close(); // or Maven waits for it
                throw e;
            }
        }

        private void await() throws Exception {
            long end = System.nanoTime() + Duration.ofSeconds(60).toNanos();
            while (true) {
                try {
                    ask("OPTIONS", url + "/healthz");
                    return;
                } catch (ConnectException e) {
                    assertTrue(process.isAlive() && System.nanoTime() < end, "the program does not serve");
                    Thread.sleep(20);
                }
            }
        }

        @Override
        public void close() {
            process.destroyForcibly();
        }
    }

    /** Returns a port for a program. The system gives none of these to whoever asks for any free one, so no other test takes it. */
    private static int freePort() {
        while (true) {
            int port = ThreadLocalRandom.current().nextInt(20_000, 30_000);
            try (var socket = new ServerSocket(port, 1, InetAddress.getLoopbackAddress())) {
                return socket.getLocalPort();
            } catch (IOException e) {
                // somebody has it
            }
        }
    }

    /** The program with which the page of the client begins, as it is there but for the addresses, and with time for a busy machine. */
    @Test
    void runsTheProgramOfTheReadme(@TempDir Path folder) throws Exception {
        Matcher block = Pattern.compile("(?s)```java\n(import .*?)```").matcher(Files.readString(Path.of("README.md")));
        assertTrue(block.find());
        int port = freePort();
        Path source = folder.resolve("Hello.java");
        try (var daemon = new Daemon()) {
            Files.writeString(source, block.group(1)
                    .replace("Client.connect(\"localhost:8081\")", "Client.builder(\"" + daemon.grpc() + "\").timeout(java.time.Duration.ofMinutes(1)).build()")
                    .replace("8000", Integer.toString(port)));
            try (var program = Program.start(source, "http://127.0.0.1:" + port)) {
                for (int i = 1; i < 100; i++) { // Program.start has asked once
                    assertEquals(200, ask("GET", program.url).statusCode());
                }
                HttpResponse<String> response = ask("GET", program.url);
                assertEquals(429, response.statusCode());
                assertTrue(response.body().contains("quota-exceeded"), response.body());
            }
        }
    }

    @Test
    void runsTheShop() throws Exception {
        int port = freePort();
        Path source = Daemon.REPOSITORY.resolve("examples/java/src/main/java/shop/Shop.java");
        try (var daemon = new Daemon();
                var shop = Program.start(source, "http://127.0.0.1:" + port, "RATELIMITD_ADDR", daemon.grpc(), "RATELIMITD_TIMEOUT", "60000", "SHOP_ADDR", "127.0.0.1:" + port)) {
            assertEquals(200, ask("GET", shop.url + "/healthz").statusCode());
            for (int i = 0; i < 10; i++) {
                assertEquals("tea, coffee\n", ask("GET", shop.url + "/products").body());
            }
            for (int i = 0; i < 3; i++) {
                assertEquals(201, ask("POST", shop.url + "/orders", "X-API-Key", "one").statusCode());
            }
            assertEquals(429, ask("POST", shop.url + "/orders", "X-API-Key", "one").statusCode());
            assertEquals(201, ask("POST", shop.url + "/orders", "X-API-Key", "two").statusCode());
            assertEquals("150 words\n", ask("GET", shop.url + "/report?words=250", "X-API-Key", "one").body());
            assertEquals(429, ask("GET", shop.url + "/report?words=900", "X-API-Key", "one").statusCode());
            assertEquals("100 words\n", ask("GET", shop.url + "/report?words=100", "X-API-Key", "one").body());
        }
    }
}
