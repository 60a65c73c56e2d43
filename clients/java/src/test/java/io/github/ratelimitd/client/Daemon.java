package io.github.ratelimitd.client;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonSyntaxException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** A process of ratelimitd on free ports of loopback, with a clock that stands still until a test turns it. */
public final class Daemon implements AutoCloseable {
    static final Path REPOSITORY = Path.of("../..").toAbsolutePath().normalize();
    static final Path TESTDATA = REPOSITORY.resolve("clients/testdata");
    private static final long PATIENCE_S = 60;

    private final List<String> flags;
    private final boolean testClock;
    private String grpc = "127.0.0.1:0", http = "127.0.0.1:0", admin = "127.0.0.1:0"; // they stay the same when it starts again
    private String resp; // "" without --resp-addr
    private Process process;

    public Daemon(String... flags) {
        this(true, List.of(flags));
    }

    Daemon(boolean testClock, List<String> flags) {
        this.flags = flags;
        this.testClock = testClock;
        start();
    }

    private static String program() {
        String given = System.getenv("RATELIMITD_BIN");
        return given != null && !given.isEmpty() ? given : Built.PROGRAM;
    }

    /** The daemon of this repository, which is built once. */
    private static final class Built {
        static final String PROGRAM = build();

        private static String build() {
            String program = Path.of("target/ratelimitd").toAbsolutePath().toString();
            run("go", "build", "-o", program, "./cmd/ratelimitd");
            return program;
        }
    }

    static {
        run(TESTDATA.resolve("make-certificates.sh").toString());
    }

    /** Runs a command in the repository. */
    private static void run(String... command) {
        try {
            if (new ProcessBuilder(command).directory(REPOSITORY.toFile()).inheritIO().start().waitFor() != 0) {
                throw new IllegalStateException(command[0] + " failed");
            }
        } catch (IOException | InterruptedException e) {
            throw new IllegalStateException(command[0], e);
        }
    }

    /** Starts it, or starts it again where it served before. */
    void start() {
        var command = new ArrayList<>(List.of(program(), "serve", "--grpc-addr=" + grpc, "--http-addr=" + http, "--admin-addr=" + admin, "--log-format=json"));
        if (testClock) {
            command.add("--test-clock");
        }
        command.addAll(flags);
        var printed = new StringBuilder();
        try {
            process = new ProcessBuilder(command).directory(TESTDATA.toFile()).redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
            BufferedReader log = process.errorReader();
            for (String line; (line = log.readLine()) != null;) {
                printed.append(line).append('\n');
                JsonObject said = parse(line);
                if (said != null && said.has("msg") && said.get("msg").getAsString().equals("serving")) {
                    grpc = said.get("grpc").getAsString();
                    http = said.get("http").getAsString();
                    admin = said.get("admin").getAsString();
                    resp = said.get("resp").getAsString();
                    drain(process.getErrorStream());
                    return;
                }
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        throw new IllegalStateException("ratelimitd serve does not serve:\n" + printed);
    }

    private static JsonObject parse(String line) {
        try {
            return JsonParser.parseString(line).getAsJsonObject();
        } catch (JsonSyntaxException | IllegalStateException e) {
            return null; // a line that is not JSON
        }
    }

    private static void drain(InputStream log) {
        var thread = new Thread(() -> {
            try (log) {
                log.transferTo(OutputStream.nullOutputStream());
            } catch (IOException e) {
                // it has ended
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    String grpc() {
        return grpc;
    }

    /** Returns where it serves the protocol of Redis. */
    String resp() {
        return resp;
    }

    /** Returns a builder of a client with time for an answer on a busy machine, and without a memory of denials. */
    Client.Builder client() {
        return Client.builder(grpc).timeout(Duration.ofMinutes(1)).onFailure(FailurePolicy.DENY).maxDenials(0);
    }

    void advance(String by) throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create("http://" + admin + "/test-clock?advance=" + by)).POST(HttpRequest.BodyPublishers.noBody()).build();
        var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            throw new IllegalStateException("turning the clock: " + response.body());
        }
    }

    /** Returns the processor time that it has taken. */
    Duration cpu() {
        return process.info().totalCpuDuration().orElseThrow();
    }

    void kill() {
        process.destroyForcibly();
        await();
    }

    void stop() {
        process.destroy();
        await();
    }

    void signal(String name) throws IOException, InterruptedException {
        new ProcessBuilder("kill", "-" + name, Long.toString(process.pid())).start().waitFor();
    }

    private void await() {
        try {
            if (!process.waitFor(PATIENCE_S, TimeUnit.SECONDS)) {
                process.destroyForcibly();
            }
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    @Override
    public void close() {
        kill();
    }
}
