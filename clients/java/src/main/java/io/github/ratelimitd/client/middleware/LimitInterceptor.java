package io.github.ratelimitd.client.middleware;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.rpc.RetryInfo;
import io.github.ratelimitd.client.Limiter;
import io.github.ratelimitd.client.Result;
import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.ForwardingServerCallListener.SimpleForwardingServerCallListener;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.util.List;
import java.util.Locale;
import java.util.function.Function;
import java.util.stream.StreamSupport;

/**
 * An interceptor of a gRPC server that holds calls to limits. A call that is denied fails with RESOURCE_EXHAUSTED and a
 * google.rpc.RetryInfo. The trailers of each call have ratelimit, ratelimit-policy and retry-after, as HTTP has them.
 *
 * <p>It waits for answers on the threads of the server's executor. So it is not for a server with directExecutor().
 */
public final class LimitInterceptor implements ServerInterceptor {
    private final Rules rules;

    public LimitInterceptor(Rules rules) {
        this.rules = rules;
    }

    /** An interceptor that holds all calls to one limiter. */
    public LimitInterceptor(Limiter limiter, Function<Request, String> by) {
        this(Rules.of(Rule.all(new Step(limiter, by))));
    }

    @Override
    public <Q, R> ServerCall.Listener<Q> interceptCall(ServerCall<Q, R> call, Metadata headers, ServerCallHandler<Q, R> next) {
        var request = new GrpcRequest(call, headers, null);
        Rules.Caller caller = rules.callerOf(request);
        if (caller == null) {
            return next.startCall(call, headers);
        }
        var limited = new Limited<>(call);
        boolean unary = call.getMethodDescriptor().getType().clientSendsOneMessage();
        if (!unary && !caller.rule.perMessage() && !passes(caller, request, limited)) {
            return new ServerCall.Listener<>() {};
        }
        ServerCall.Listener<Q> listener = next.startCall(limited, headers);
        return !unary && !caller.rule.perMessage() ? listener : new SimpleForwardingServerCallListener<>(listener) {
            private boolean denied;

            @Override
            public void onMessage(Q message) {
                if (denied) {
                    return;
                }
                if (passes(caller, new GrpcRequest(call, headers, message), limited)) {
                    super.onMessage(message);
                } else {
                    denied = true;
                    super.onCancel(); // so that the service frees what it has for the call
                }
            }

            @Override
            public void onHalfClose() {
                if (!denied) {
                    super.onHalfClose();
                }
            }

            @Override
            public void onCancel() {
                if (!denied) {
                    super.onCancel();
                }
            }

            @Override
            public void onComplete() {
                if (!denied) {
                    super.onComplete();
                }
            }
        };
    }

    /** Reports whether a call, or a message of it, passes; or else has ended the call. */
    private boolean passes(Rules.Caller caller, Request message, Limited<?, ?> call) {
        Outcome outcome = caller.ask(message);
        if (rules.isShadow()) {
            return true;
        }
        Fields fields = Fields.of(outcome);
        call.fields = fields;
        if (outcome.denied()) {
            StatusRuntimeException error = denial(outcome, fields.violated());
            call.close(error.getStatus(), error.getTrailers() == null ? new Metadata() : error.getTrailers());
            return false;
        }
        try {
            outcome.hold();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt(); // the server stops
            call.close(Status.UNAVAILABLE.withDescription("the server stops"), new Metadata());
            return false;
        }
        return true;
    }

    /** Returns the error of a call that is denied. */
    private static StatusRuntimeException denial(Outcome outcome, List<String> violated) {
        if (outcome.failed()) {
            return Status.UNAVAILABLE.withDescription("the limit of this call cannot be checked").asRuntimeException();
        }
        var status = com.google.rpc.Status.newBuilder()
                .setCode(Status.Code.RESOURCE_EXHAUSTED.value())
                .setMessage(("over the limit " + String.join(", ", violated)).trim());
        java.time.Duration retryAfter = outcome.last().retryAfter();
        if (!retryAfter.isZero() && !retryAfter.equals(Result.NEVER)) {
            status.addDetails(Any.pack(RetryInfo.newBuilder()
                    .setRetryDelay(Duration.newBuilder().setSeconds(retryAfter.getSeconds()).setNanos(retryAfter.getNano())).build()));
        }
        return StatusProto.toStatusRuntimeException(status.build());
    }

    /** A call whose trailers have the fields. */
    private static final class Limited<Q, R> extends SimpleForwardingServerCall<Q, R> {
        private volatile Fields fields; // of what was asked last; null: nothing was
        private boolean closed; // by a denial

        Limited(ServerCall<Q, R> call) {
            super(call);
        }

        @Override
        public void sendMessage(R message) {
            synchronized (this) {
                if (!closed) {
                    super.sendMessage(message);
                }
            }
        }

        @Override
        public void close(Status status, Metadata trailers) {
            synchronized (this) {
                if (closed) {
                    return; // the service ends a call that was denied under it
                }
                closed = true;
                if (fields != null) {
                    fields.values().forEach((name, value) -> trailers.put(Metadata.Key.of(name.toLowerCase(Locale.ROOT), Metadata.ASCII_STRING_MARSHALLER), value));
                }
                super.close(status, trailers);
            }
        }
    }

    private record GrpcRequest(ServerCall<?, ?> call, Metadata metadata, Object content) implements Request {
        @Override
        public String method() {
            return "POST";
        }

        @Override
        public String path() {
            return "/" + call.getMethodDescriptor().getFullMethodName();
        }

        @Override
        public List<String> headers(String name) {
            Iterable<String> all = metadata.getAll(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER));
            return all == null ? List.of() : StreamSupport.stream(all.spliterator(), false).toList();
        }

        @Override
        public String peer() {
            SocketAddress from = call.getAttributes().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR);
            return from instanceof InetSocketAddress address && address.getAddress() != null ? address.getAddress().getHostAddress() : "";
        }
    }
}
