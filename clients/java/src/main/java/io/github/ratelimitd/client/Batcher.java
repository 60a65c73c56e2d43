package io.github.ratelimitd.client;

import com.google.rpc.RetryInfo;
import io.github.ratelimitd.api.v1.RateLimitServiceGrpc;
import io.github.ratelimitd.api.v1.ShouldAllowBatchRequest;
import io.github.ratelimitd.api.v1.ShouldAllowBatchResponse;
import io.github.ratelimitd.api.v1.ShouldAllowRequest;
import io.github.ratelimitd.api.v1.ShouldAllowResponse;
import io.github.ratelimitd.api.v1.ShouldAllowResult;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Has calls share the messages of one stream. A call that finds nothing under way is sent at once. Those that are made until its
 * answer comes go together in the next message. So the busier the client is, the larger its messages are, and no call waits for
 * others to come.
 */
final class Batcher {
    /** How many requests the daemon takes in a message. */
    private static final int MAX_BATCH = 1000;
    /**
     * It fits the shortest --max-message-bytes that a daemon may have, and the window of HTTP/2, so that no message waits for the
     * daemon to read.
     */
    private static final int MAX_BATCH_BYTES = 60_000;
    /** How long a message is waited for while others queue behind it, even if one of its callers has more time. */
    private static final long MAX_FLIGHT = Duration.ofSeconds(1).toNanos();
    /** How long calls go alone after a daemon, or a proxy before it, has said that it has no streams. */
    private static final long UNARY_FOR = Duration.ofMinutes(1).toNanos();

    static final Status INTERRUPTED = Status.CANCELLED.withDescription("the thread was interrupted");

    private final Channel channel;

    // The lock of this protects the following.
    private boolean closed;
    private final Set<Call> queue = new LinkedHashSet<>();
    private List<Call> flight = List.of(); // of the message that is under way
    private long overdue; // when that has been waited for long enough
    private Stream stream; // null: none is open, nor being opened
    private boolean unary; // calls go alone, until unaryUntil
    private long unaryUntil;

    Batcher(Channel channel) {
        this.channel = channel;
    }

    /** One request that waits for its answer. */
    private static final class Call {
        final ShouldAllowRequest request;
        final long deadline;
        final CountDownLatch done = new CountDownLatch(1);

        // The lock of the batcher protects the following until done.
        boolean left; // its caller has gone
        boolean answered;
        boolean again; // it has been sent before, on a stream that ended without deciding it
        ShouldAllowResponse response;
        Status error; // null, with a response of null: send it alone

        Call(ShouldAllowRequest request, long deadline) {
            this.request = request;
            this.deadline = deadline;
        }

        /** Has the answer. The caller is told, by done, without the lock. */
        Call answer(ShouldAllowResponse response, Status error) {
            this.answered = true;
            this.response = response;
            this.error = error;
            return this;
        }
    }

    /** Returns the answer to a request within timeout, or null if it is to be sent alone, in what is left of that. */
    ShouldAllowResponse ask(ShouldAllowRequest request, Duration timeout) {
        if (Thread.currentThread().isInterrupted()) { // nobody waits, so that nothing is to be consumed
            throw INTERRUPTED.asRuntimeException();
        }
        long now = System.nanoTime();
        var call = new Call(request, now + timeout.toNanos());
        if (!begin(call, now)) {
            return null;
        }
        Status gone = null;
        try {
            if (!call.done.await(timeout.toNanos(), TimeUnit.NANOSECONDS)) {
                gone = Status.DEADLINE_EXCEEDED.withDescription("no answer in " + timeout.toMillis() + " ms");
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            gone = INTERRUPTED;
        }
        if (gone != null && leave(call)) {
            throw gone.asRuntimeException();
        }
        if (call.error != null) {
            throw call.error.asRuntimeException();
        }
        return call.response;
    }

    /** Queues a call, and sends it if nothing is under way. It is false if the call is to go alone. */
    private boolean begin(Call call, long now) {
        Message next;
        Stream opened = null;
        synchronized (this) {
            if (closed) {
                throw Client.CLOSED.asRuntimeException();
            }
            if (unary && now - unaryUntil < 0) {
                return false;
            }
            unary = false;
            queue.add(call);
            if (stream == null) {
                stream = opened = new Stream();
            }
            next = next(now);
        }
        send(opened, next);
        return true;
    }

    /** A message, and the stream on which it goes. */
    private record Message(Stream on, ShouldAllowBatchRequest batch) {}

    /** Opens a stream and sends a message, without the lock; null is none. */
    private static void send(Stream opened, Message next) {
        if (opened != null) {
            opened.open();
        }
        if (next != null) {
            next.on.send(next.batch);
        }
    }

    /** Puts what is queued under way, if nothing is, and returns what is to be sent, or null. The lock is held. */
    private Message next(long now) {
        if (stream == null || !flight.isEmpty() || queue.isEmpty()) {
            return null;
        }
        var batch = ShouldAllowBatchRequest.newBuilder();
        var calls = new ArrayList<Call>(Math.min(queue.size(), MAX_BATCH));
        int bytes = 0;
        long longest = 0;
        for (var all = queue.iterator(); all.hasNext() && calls.size() < MAX_BATCH;) {
            Call call = all.next();
            bytes += call.request.getSerializedSize() + 4; // and what tells it from the next
            if (!calls.isEmpty() && bytes > MAX_BATCH_BYTES) {
                break;
            }
            longest = Math.max(longest, call.deadline - now);
            calls.add(call);
            batch.addRequests(call.request);
            all.remove();
        }
        overdue = now + Math.min(longest, MAX_FLIGHT);
        flight = calls;
        return new Message(stream, batch.build());
    }

    /**
     * Takes a call whose caller waits no longer out of the queue. It is false if the call has its answer. The stream is given up
     * if its message has been waited for long enough: the next calls are to find another, and perhaps another daemon.
     */
    private boolean leave(Call call) {
        Stream old = null;
        synchronized (this) {
            if (call.answered) {
                return false;
            }
            queue.remove(call);
            call.left = true;
            if (stream != null && !flight.isEmpty() && System.nanoTime() - overdue >= 0) {
                old = stream;
            }
        }
        if (old != null) {
            old.cancel("no answer for too long, so that the stream is given up");
        }
        return true;
    }

    /** Gives the calls under way their results, and sends those that have come since. It returns what is wrong, or null. */
    private String answer(Stream from, List<ShouldAllowResult> results) {
        Message next;
        List<Call> answered;
        synchronized (this) {
            if (from != stream) {
                return null; // it has ended
            }
            boolean whole = results.size() == 1 && flight.size() != 1 && results.get(0).hasError(); // of the message itself
            if (results.size() != flight.size() && !whole) {
                return "the daemon answers " + flight.size() + " requests with " + results.size() + " results";
            }
            for (int i = 0; i < flight.size(); i++) {
                ShouldAllowResult result = results.get(whole ? 0 : i);
                if (result.hasError()) {
                    flight.get(i).answer(null, Status.fromCodeValue(result.getError().getCode()).withDescription(result.getError().getMessage()));
                } else {
                    flight.get(i).answer(result.getResponse(), null);
                }
            }
            answered = flight;
            flight = List.of();
            next = next(System.nanoTime());
        }
        send(null, next); // so that the daemon works while the callers are woken
        answered.forEach(call -> call.done.countDown());
        return null;
    }

    /**
     * Answers the calls of a stream that has ended, or could not be opened. Those that the daemon has certainly not decided are
     * sent again. Those that it may have decided are not, lest they are charged twice.
     */
    private void end(Stream old, Status status, Metadata trailers) {
        Message next = null;
        Stream opened = null;
        var answered = new ArrayList<Call>();
        synchronized (this) {
            if (old != stream) {
                return;
            }
            stream = null;
            boolean again = undecided(status, trailers);
            boolean alone = status.getCode() == Status.Code.UNIMPLEMENTED;
            Status error = closed ? Client.CLOSED : switch (status.getCode()) {
                case OK -> Status.UNAVAILABLE.withDescription("the daemon has ended the stream");
                case CANCELLED -> Status.UNAVAILABLE.withDescription(status.getDescription()); // by us: these callers have not cancelled
                case UNIMPLEMENTED -> null;
                default -> status;
            };
            if (alone) {
                unary = true;
                unaryUntil = System.nanoTime() + UNARY_FOR;
            }
            var waiting = List.copyOf(queue);
            queue.clear();
            for (Call call : flight) {
                if (again && !closed && !call.again && !call.left) {
                    call.again = true;
                    queue.add(call);
                } else {
                    answered.add(call.answer(null, error));
                }
            }
            flight = List.of();
            for (Call call : waiting) {
                if (!old.ready || alone || closed) {
                    answered.add(call.answer(null, error));
                } else {
                    queue.add(call);
                }
            }
            if (!queue.isEmpty()) {
                stream = opened = new Stream();
                next = next(System.nanoTime());
            }
        }
        send(opened, next);
        answered.forEach(call -> call.done.countDown());
    }

    /**
     * Reports whether a stream says that what has no answer was not decided: a daemon that ends one, as it stops or the stream is
     * old, says when to ask again.
     */
    private static boolean undecided(Status status, Metadata trailers) {
        if (status.getCode() != Status.Code.UNAVAILABLE) {
            return false;
        }
        com.google.rpc.Status details = StatusProto.fromStatusAndTrailers(status, trailers);
        return details.getDetailsList().stream().anyMatch(detail -> detail.is(RetryInfo.class));
    }

    /** Answers all calls, and ends the stream. */
    void close() {
        Stream old;
        synchronized (this) {
            closed = true;
            old = stream;
        }
        if (old != null) {
            old.cancel("the client is closed");
        }
    }

    /** A ShouldAllowStream. */
    private final class Stream extends ClientCall.Listener<ShouldAllowBatchResponse> {
        private final ClientCall<ShouldAllowBatchRequest, ShouldAllowBatchResponse> call = newCall();
        private volatile boolean ready; // there was a connection for it

        private boolean started;
        private String cancelled; // why; null: it is not

        // A ClientCall is for one thread at a time, and its methods may call those below. So the lock of a stream is taken before
        // that of the batcher, and never after it.

        /**
         * Returns a call without the context of whoever opens the stream. In a gRPC server that is the call at hand, which has an
         * end and a deadline, and the stream is for others too.
         */
        private ClientCall<ShouldAllowBatchRequest, ShouldAllowBatchResponse> newCall() {
            Context opener = Context.ROOT.attach();
            try {
                return channel.newCall(RateLimitServiceGrpc.getShouldAllowStreamMethod(), CallOptions.DEFAULT);
            } finally {
                Context.ROOT.detach(opener);
            }
        }

        synchronized void open() {
            if (cancelled != null) {
                end(this, Status.CANCELLED.withDescription(cancelled), new Metadata());
                return;
            }
            started = true;
            call.start(this, new Metadata());
            call.request(1);
        }

        synchronized void send(ShouldAllowBatchRequest batch) {
            if (cancelled == null) {
                call.sendMessage(batch);
            }
        }

        synchronized void cancel(String why) {
            if (cancelled == null) {
                cancelled = why;
                if (started) {
                    call.cancel(why, null);
                }
            }
        }

        @Override
        public void onReady() {
            ready = true;
        }

        @Override
        public void onMessage(ShouldAllowBatchResponse message) {
            ready = true;
            String wrong = answer(this, message.getResultsList());
            if (wrong != null) {
                cancel(wrong);
            } else {
                call.request(1);
            }
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            end(this, status, trailers);
        }
    }
}
