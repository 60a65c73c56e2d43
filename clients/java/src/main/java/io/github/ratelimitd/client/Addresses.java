package io.github.ratelimitd.client;

import io.grpc.Attributes;
import io.grpc.EquivalentAddressGroup;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.Status;
import io.grpc.StatusOr;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.URI;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executor;

/** Finds the daemons of a target that has several addresses: "ratelimitd:///one:8081,two:8081". */
final class Addresses extends NameResolverProvider {
    private static final String SCHEME = "ratelimitd";
    private static final int PORT = 8081;

    /** Returns the target of addresses. One that has a slash is a target of gRPC already. */
    static String target(List<String> addresses) {
        if (addresses.size() == 1 && addresses.get(0).contains("/")) {
            return addresses.get(0);
        }
        addresses.forEach(Addresses::parse);
        return SCHEME + ":///" + String.join(",", addresses).replace("[", "%5B").replace("]", "%5D");
    }

    private static URI parse(String address) {
        URI uri = null;
        try {
            uri = URI.create("//" + address);
        } catch (IllegalArgumentException e) {
            // it is said below
        }
        if (uri == null || uri.getHost() == null || !uri.getPath().isEmpty()) {
            throw new IllegalArgumentException("ratelimitd: address \"" + address + "\": write host:port, such as ratelimitd:8081");
        }
        return uri;
    }

    @Override
    public NameResolver newNameResolver(URI target, NameResolver.Args args) {
        if (!SCHEME.equals(target.getScheme())) {
            return null;
        }
        List<URI> all = List.of(target.getPath().substring(1).split(",")).stream().map(Addresses::parse).toList();
        return new Resolver(all, args.getOffloadExecutor());
    }

    @Override
    public String getDefaultScheme() {
        return SCHEME;
    }

    @Override
    protected boolean isAvailable() {
        return true;
    }

    @Override
    protected int priority() {
        return 0; // "dns" goes on being the default scheme of the program
    }

    @Override
    public Collection<Class<? extends SocketAddress>> getProducedSocketAddressTypes() {
        return Set.of(InetSocketAddress.class);
    }

    private static final class Resolver extends NameResolver {
        private final List<URI> all;
        private final Executor executor;
        private Listener2 listener;

        Resolver(List<URI> all, Executor executor) {
            this.all = all;
            this.executor = executor != null ? executor : Runnable::run;
        }

        @Override
        public String getServiceAuthority() {
            return all.get(0).getAuthority();
        }

        @Override
        public void start(Listener2 listener) {
            this.listener = listener;
            refresh();
        }

        @Override
        public void refresh() {
            executor.execute(this::resolve);
        }

        private void resolve() {
            var groups = new ArrayList<EquivalentAddressGroup>();
            Status wrong = null;
            for (URI uri : all) {
                var attributes = Attributes.newBuilder().set(EquivalentAddressGroup.ATTR_AUTHORITY_OVERRIDE, uri.getAuthority()).build();
                try {
                    for (InetAddress address : InetAddress.getAllByName(uri.getHost())) {
                        groups.add(new EquivalentAddressGroup(new InetSocketAddress(address, uri.getPort() < 0 ? PORT : uri.getPort()), attributes));
                    }
                } catch (UnknownHostException e) {
                    wrong = Status.UNAVAILABLE.withDescription("unknown host " + uri.getHost()).withCause(e);
                }
            }
            if (groups.isEmpty()) {
                listener.onError(wrong);
            } else {
                listener.onResult(ResolutionResult.newBuilder().setAddressesOrError(StatusOr.fromValue(groups)).build());
            }
        }

        @Override
        public void shutdown() {}
    }
}
