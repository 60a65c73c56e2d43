package io.github.ratelimitd.client.middleware;

import java.util.List;

/** A request over HTTP, or a call over gRPC, as identifier and cost functions see it. */
public interface Request {
    /** Returns "GET", or whatever the method is; of gRPC, "POST". */
    String method();

    /** Returns the path, without the parts of it that say nothing; of gRPC, "/package.Service/Method". */
    String path();

    /** Returns the values of a header, or of a key of the metadata. */
    List<String> headers(String name);

    /** Returns the address of the peer. */
    String peer();

    /**
     * Returns the HttpServletRequest; of gRPC, the message of a unary call, or of a stream whose rule is per message. It is null
     * for a stream as a whole.
     */
    Object content();

    /** Returns the first value of a header, or "". */
    default String header(String name) {
        List<String> all = headers(name);
        return all.isEmpty() ? "" : all.get(0);
    }
}
