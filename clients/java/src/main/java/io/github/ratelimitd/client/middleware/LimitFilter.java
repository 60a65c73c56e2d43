package io.github.ratelimitd.client.middleware;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import io.github.ratelimitd.client.Limiter;
import io.github.ratelimitd.client.Result;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Collections;
import java.util.List;
import java.util.function.Function;

/**
 * A servlet filter that holds requests to limits. A request that is denied is answered 429 with application/problem+json, and
 * each response has the fields RateLimit, RateLimit-Policy and Retry-After of draft-ietf-httpapi-ratelimit-headers-11.
 */
public final class LimitFilter implements Filter {
    /** Answers a request that is denied. The fields of the response are set already. */
    public interface Denied {
        void answer(HttpServletRequest request, HttpServletResponse response, Result result) throws IOException;
    }

    private static final String CALLER = LimitFilter.class.getName() + ".caller";

    private final Rules rules;
    private final Denied denied; // null: 429, or 503 if the failure policy denied

    public LimitFilter(Rules rules) {
        this(rules, null);
    }

    public LimitFilter(Rules rules, Denied denied) {
        this.rules = rules;
        this.denied = denied;
    }

    /** A filter that holds all requests to one limiter. */
    public LimitFilter(Limiter limiter, Function<Request, String> by) {
        this(Rules.of(Rule.all(new Step(limiter, by))));
    }

    /** Returns who makes a request that the filter has passed, or null if no rule matched it. */
    public static Rules.Caller callerOf(ServletRequest request) {
        return (Rules.Caller) request.getAttribute(CALLER);
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain) throws IOException, ServletException {
        if (request instanceof HttpServletRequest in && response instanceof HttpServletResponse out
                && in.getDispatcherType() == DispatcherType.REQUEST && !passes(in, out)) { // what goes on within the service was asked for
            return;
        }
        chain.doFilter(request, response);
    }

    /** Reports whether a request passes; or else has answered it. */
    private boolean passes(HttpServletRequest in, HttpServletResponse out) throws IOException {
        var request = new HttpRequest(in);
        Rules.Caller caller = rules.callerOf(request);
        if (caller == null) {
            return true;
        }
        Outcome outcome = caller.ask(request);
        in.setAttribute(CALLER, caller);
        if (rules.isShadow()) {
            return true;
        }
        Fields fields = Fields.of(outcome);
        fields.values().forEach(out::setHeader);
        if (outcome.denied()) {
            if (denied != null) {
                denied.answer(in, out, outcome.last());
            } else {
                answer(out, outcome, fields);
            }
            return false;
        }
        try {
            outcome.hold();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt(); // the server stops
            out.sendError(HttpServletResponse.SC_SERVICE_UNAVAILABLE);
            return false;
        }
        return true;
    }

    private static void answer(HttpServletResponse out, Outcome outcome, Fields fields) throws IOException {
        int status = outcome.failed() ? 503 : 429;
        var problem = new JsonObject();
        problem.addProperty("type", outcome.failed() ? "about:blank" : Fields.QUOTA_EXCEEDED);
        problem.addProperty("title", outcome.failed() ? "Service Unavailable" : "over the limit");
        problem.addProperty("status", status);
        if (!fields.violated().isEmpty()) {
            var names = new JsonArray();
            fields.violated().forEach(names::add);
            problem.add("violated-policies", names);
        }
        out.setStatus(status);
        out.setContentType("application/problem+json");
        out.getOutputStream().write((problem + "\n").getBytes(StandardCharsets.UTF_8));
    }

    private record HttpRequest(HttpServletRequest content, String path) implements Request {
        HttpRequest(HttpServletRequest in) {
            this(in, clean(in.getServletPath() + (in.getPathInfo() == null ? "" : in.getPathInfo())));
        }

        /** Returns a path without "//", "." and "..": or else //orders would be another path here, and the same in the service. */
        private static String clean(String path) {
            var parts = new ArrayDeque<String>();
            for (String part : path.split("/")) {
                if (part.equals("..")) {
                    parts.pollLast();
                } else if (!part.isEmpty() && !part.equals(".")) {
                    parts.addLast(part);
                }
            }
            return "/" + String.join("/", parts) + (path.endsWith("/") && !parts.isEmpty() ? "/" : "");
        }

        @Override
        public String method() {
            return content.getMethod();
        }

        @Override
        public List<String> headers(String name) {
            return Collections.list(content.getHeaders(name));
        }

        @Override
        public String peer() {
            return content.getRemoteAddr();
        }
    }
}
