package shop;

import io.github.ratelimitd.client.Client;
import io.github.ratelimitd.client.Limit;
import io.github.ratelimitd.client.Limiter;
import io.github.ratelimitd.client.Result;
import io.github.ratelimitd.client.Strategy;
import io.github.ratelimitd.client.middleware.Identifiers;
import io.github.ratelimitd.client.middleware.LimitFilter;
import io.github.ratelimitd.client.middleware.Rule;
import io.github.ratelimitd.client.middleware.Rules;
import io.github.ratelimitd.client.middleware.Step;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.EnumSet;
import java.util.Map;
import org.eclipse.jetty.ee10.servlet.FilterHolder;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;

/**
 * A small shop, which holds its callers to limits of ratelimitd:
 *
 * <pre>
 * ratelimitd serve &
 * mvn compile exec:java
 * curl -i localhost:8000/products
 * curl -i -X POST -H 'X-API-Key: secret' localhost:8000/orders
 * curl -i -H 'X-API-Key: secret' 'localhost:8000/report?words=200'
 * </pre>
 *
 * RATELIMITD_ADDR is where the daemon serves, RATELIMITD_TIMEOUT how many milliseconds it may take to answer, and SHOP_ADDR where the
 * shop serves.
 */
public final class Shop {
    public static void main(String[] args) throws Exception {
        Map<String, String> environment = System.getenv();
        Client limits = Client.builder(environment.getOrDefault("RATELIMITD_ADDR", "localhost:8081"))
                .timeout(Duration.ofMillis(Long.parseLong(environment.getOrDefault("RATELIMITD_TIMEOUT", "50"))))
                .build();
        // One address may ask often, and one customer may order less often.
        Limiter perAddress = limits.limiter("shop", Limit.rate("100/s").name("requests").strategy(Strategy.TOKEN_BUCKET));
        Limiter perCustomer = limits.limiter("shop", Limit.rate("3/min").name("orders").strategy(Strategy.SLIDING_WINDOW_COUNTER));
        Limiter words = limits.limiter("shop", Limit.rate("1000/day").name("words"));

        // The first call is slow, and says whether the daemon takes the limit.
        Result first = perAddress.timeout(Duration.ofSeconds(10)).check("start", 0);
        if (first.error() != null) {
            throw first.error();
        }

        var address = Identifiers.clientAddress("10.0.0.0/8");
        var customer = Identifiers.firstOf(Identifiers.apiKey("X-API-Key"), address);
        Rules rules = Rules.of(
                Rule.path("/healthz", new Step(perAddress, request -> Limiter.EXEMPT)),
                Rule.path("/orders", new Step(perAddress, address), new Step(perCustomer, customer)).methods("POST"),
                Rule.path("/report", new Step(perAddress, address), new Step(words, customer, request -> 0)),
                Rule.all(new Step(perAddress, address)));

        var shop = new ServletContextHandler();
        shop.addFilter(new FilterHolder(new LimitFilter(rules)), "/*", EnumSet.of(DispatcherType.REQUEST));
        shop.addServlet(new ServletHolder(new Pages()), "/*");
        shop.addServlet(new ServletHolder(new Report(words)), "/report");
        String[] at = environment.getOrDefault("SHOP_ADDR", "0.0.0.0:8000").split(":");
        var server = new Server(new InetSocketAddress(at[0], Integer.parseInt(at[1])));
        server.setHandler(shop);
        server.start();
        server.join();
    }

    private static final class Pages extends HttpServlet {
        private static final long serialVersionUID = 1;

        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
            response.getWriter().println("tea, coffee");
        }

        @Override
        protected void doPost(HttpServletRequest request, HttpServletResponse response) {
            response.setStatus(HttpServletResponse.SC_CREATED);
        }
    }

    /** A report costs as many words as it gets, which nobody knows before it is written. */
    private static final class Report extends HttpServlet {
        private static final long serialVersionUID = 1;

        private final transient Limiter words;

        Report(Limiter words) {
            this.words = words;
        }

        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
            String asked = request.getParameter("words");
            if (asked == null || !asked.matches("[0-9]{1,6}")) {
                response.sendError(HttpServletResponse.SC_BAD_REQUEST, "words: give a number, such as 200");
                return;
            }
            long wanted = Long.parseLong(asked);
            var reserved = words.reserve(LimitFilter.callerOf(request).identifier(words), wanted);
            if (!reserved.result().allowed()) {
                response.sendError(429, "too many words today");
                return;
            }
            long written = Math.min(wanted, 150); // what it takes to say it
            response.getWriter().println(written + " words");
            var settled = reserved.commit(written);
            if (settled.error() != null) {
                log("a report has cost its estimate: " + settled.error().getMessage());
            }
        }
    }
}
