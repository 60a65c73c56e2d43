package io.github.ratelimitd.client;

import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;
import java.util.stream.IntStream;
import java.util.stream.LongStream;

/**
 * Measures decisions per second, and per second of processor time of client and daemon together, of calls that share a stream
 * against calls that go alone. It is no test:
 *
 * <pre>
 * mvn --quiet test-compile exec:java -Dexec.classpathScope=test -Dexec.mainClass=io.github.ratelimitd.client.Speed
 * </pre>
 */
final class Speed {
    /** How long each kind of call runs before the first measurement: until then, Java compiles what they need. */
    private static final Duration COMPILATION = Duration.ofSeconds(15);
    private static final Duration WARMUP = Duration.ofMillis(500), RUN = Duration.ofSeconds(2);
    private static final int RUNS = 5;

    private static final OperatingSystemMXBean SYSTEM = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    /** What a run has measured. */
    private record Figures(double perSecond, double perCpuSecond, double p50, double p99) {}

    public static void main(String[] args) throws Exception {
        System.out.printf("%d processors; Java %s; median of %d runs of %d s each%n%n", SYSTEM.getAvailableProcessors(), Runtime.version(), RUNS, RUN.toSeconds());
        try (var daemon = new Daemon(false, List.of())) {
            for (boolean unary : new boolean[] {true, false}) {
                measure(daemon, 16, unary, COMPILATION);
            }
            System.out.println("| callers | alone: decisions/s | client: decisions/s | alone: per CPU second | client: per CPU second | ratio | alone: p50, p99 | client: p50, p99 | ratio of p50, p99 |");
            System.out.println("|---|---|---|---|---|---|---|---|---|");
            for (int callers : new int[] {1, 16, 256}) {
                var alone = new ArrayList<Figures>();
                var together = new ArrayList<Figures>();
                for (int i = 0; i < RUNS; i++) {
                    alone.add(measure(daemon, callers, true, WARMUP));
                    together.add(measure(daemon, callers, false, WARMUP));
                }
                System.out.printf("| %d | %.0f | %.0f | %.0f | %.0f | **%.2f** | %.0f µs, %.0f µs | %.0f µs, %.0f µs | %.2f, %.2f |%n", callers,
                        median(alone, Figures::perSecond), median(together, Figures::perSecond),
                        median(alone, Figures::perCpuSecond), median(together, Figures::perCpuSecond), ratio(together, alone, Figures::perCpuSecond),
                        median(alone, Figures::p50), median(alone, Figures::p99), median(together, Figures::p50), median(together, Figures::p99),
                        ratio(together, alone, Figures::p50), ratio(together, alone, Figures::p99));
            }
            denials(daemon);
        }
    }

    /** Returns the median of the ratios of runs that followed each other. */
    private static double ratio(List<Figures> of, List<Figures> to, Function<Figures, Double> figure) {
        return median(IntStream.range(0, RUNS).boxed().toList(), i -> figure.apply(of.get(i)) / figure.apply(to.get(i)));
    }

    private static <T> double median(List<T> all, Function<T, Double> of) {
        return all.stream().map(of).sorted(Comparator.naturalOrder()).toList().get(all.size() / 2);
    }

    private static Figures measure(Daemon daemon, int callers, boolean unary, Duration warmup) throws InterruptedException {
        Client.Builder options = daemon.client();
        if (unary) {
            options.unary();
        }
        try (Client client = options.build()) {
            Limiter limiter = client.limiter("speed", Limit.rate("1_000_000_000/h"));
            run(limiter, callers, warmup);
            long cpu = cpu(daemon), began = System.nanoTime();
            long[] took = run(limiter, callers, RUN);
            double seconds = (System.nanoTime() - began) / 1e9, cpuSeconds = (cpu(daemon) - cpu) / 1e9;
            Arrays.sort(took);
            return new Figures(took.length / seconds, took.length / cpuSeconds, took[took.length / 2] / 1e3, took[took.length * 99 / 100] / 1e3);
        }
    }

    /** Returns the processor time of this process and the daemon's, in nanoseconds. */
    private static long cpu(Daemon daemon) {
        return SYSTEM.getProcessCpuTime() + daemon.cpu().toNanos();
    }

    /** Has so many threads call for so long, and returns how long each call took, in nanoseconds. */
    private static long[] run(Limiter limiter, int callers, Duration length) throws InterruptedException {
        var times = new long[callers][];
        var failure = new AtomicReference<RuntimeException>();
        long end = System.nanoTime() + length.toNanos();
        var threads = new ArrayList<Thread>();
        for (int i = 0; i < callers; i++) {
            int me = i;
            var thread = new Thread(() -> {
                var took = LongStream.builder();
                for (long began = System.nanoTime(); began < end;) {
                    Result result = limiter.allow("user:" + me);
                    if (result.error() != null) {
                        failure.set(result.error());
                        break;
                    }
                    long now = System.nanoTime();
                    took.add(now - began);
                    began = now;
                }
                times[me] = took.build().toArray();
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        if (failure.get() != null) {
            throw failure.get();
        }
        return Arrays.stream(times).flatMapToLong(Arrays::stream).toArray();
    }

    /** Says how long a remembered denial takes. */
    private static void denials(Daemon daemon) {
        try (Client client = daemon.client().maxDenials(10_000).build()) {
            Limiter limiter = client.limiter("speed", Limit.rate("0/h"));
            final int calls = 3_000_000;
            for (int round = 0; round < 2; round++) { // the first is for Java, which compiles it
                int remembered = 0;
                long began = SYSTEM.getProcessCpuTime();
                for (int i = 0; i < calls; i++) {
                    remembered += limiter.allow("alice").remembered() ? 1 : 0;
                }
                if (round > 0) {
                    System.out.printf("%nA remembered denial takes %.2f µs of CPU time; %d of %d were calls%n", (SYSTEM.getProcessCpuTime() - began) / 1e3 / calls, calls - remembered, calls);
                }
            }
        }
    }
}
