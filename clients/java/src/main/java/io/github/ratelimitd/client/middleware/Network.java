package io.github.ratelimitd.client.middleware;

import java.util.Arrays;
import java.util.List;

/** Addresses that begin with the same bits: an address is 4 bytes or 16. */
record Network(byte[] address, int bits) {
    /** How much of an IPv6 address is one client: the network that a site gets. Within it each may choose addresses freely. */
    private static final int CLIENT_BITS = 64;

    /** Returns the network "10.0.0.0/8", or that of one address. */
    static Network parse(String text) {
        int slash = text.indexOf('/');
        byte[] written = bytes(slash < 0 ? text : text.substring(0, slash));
        if (written != null) {
            byte[] address = unmapped(written);
            int mapped = (written.length - address.length) * 8;
            try {
                int bits = (slash < 0 ? written.length * 8 : Integer.parseInt(text.substring(slash + 1))) - mapped;
                if (bits >= 0 && bits <= address.length * 8) {
                    return new Network(address, bits);
                }
            } catch (NumberFormatException e) {
                // it is said below
            }
        }
        throw new IllegalArgumentException("ratelimitd: trusted proxy \"" + text + "\": write a network or an address, such as 10.0.0.0/8");
    }

    boolean has(byte[] other) {
        return other.length == address.length && Arrays.equals(masked(other, bits), masked(address, bits));
    }

    private static byte[] masked(byte[] address, int bits) {
        byte[] out = new byte[address.length];
        for (int i = 0; i < out.length; i++) {
            int keep = Math.max(0, Math.min(8, bits - i * 8));
            out[i] = (byte) (address[i] & 0xFF << 8 - keep);
        }
        return out;
    }

    /**
     * Returns the identifier of the client of a request that peer has sent, with the values of X-Forwarded-For. Each trusted proxy
     * has added the address it was asked from on the right, so that it counts from there: what a client itself writes is on the
     * left. It is "" if peer is no address.
     */
    static String clientOf(String peer, List<String> forwarded, List<Network> trusted) {
        byte[] client = address(peer);
        if (client == null) {
            return "";
        }
        String[] hops = String.join(",", forwarded).split(",", -1);
        for (int i = hops.length - 1; i >= 0; i--) {
            byte[] from = client;
            if (trusted.stream().noneMatch(network -> network.has(from))) {
                break;
            }
            byte[] hop = address(hops[i].trim());
            if (hop == null) {
                break;
            }
            client = hop;
        }
        return client.length == 4 ? text4(client) : text6(masked(client, CLIENT_BITS)) + "/" + CLIENT_BITS;
    }

    /** Returns the address that text is, with or without a port; null if it is not an address. */
    private static byte[] address(String text) {
        String host = text;
        int colon = text.lastIndexOf(':');
        if (text.startsWith("[")) {
            int end = text.indexOf(']');
            if (end < 0 || end != text.length() - 1 && !(colon == end + 1 && isPort(text.substring(colon + 1)))) {
                return null;
            }
            host = text.substring(1, end);
        } else if (colon >= 0 && text.indexOf(':') == colon) {
            if (!isPort(text.substring(colon + 1))) {
                return null;
            }
            host = text.substring(0, colon);
        }
        byte[] address = bytes(host);
        return address == null ? null : unmapped(address);
    }

    private static boolean isPort(String text) {
        return text.matches("[0-9]{1,5}") && Integer.parseInt(text) <= 65535;
    }

    /** Returns the 4 bytes of an IPv4 address that is written as IPv6, and otherwise address. */
    private static byte[] unmapped(byte[] address) {
        boolean mapped = address.length == 16 && address[10] == -1 && address[11] == -1;
        for (int i = 0; mapped && i < 10; i++) {
            mapped = address[i] == 0;
        }
        return mapped ? Arrays.copyOfRange(address, 12, 16) : address;
    }

    /** Returns the bytes of an address, or null. InetAddress would ask DNS about what is not an address. */
    private static byte[] bytes(String text) {
        return text.indexOf(':') >= 0 ? bytes6(text) : bytes4(text);
    }

    private static byte[] bytes4(String text) {
        String[] parts = text.split("\\.", -1);
        if (parts.length != 4) {
            return null;
        }
        byte[] out = new byte[4];
        for (int i = 0; i < 4; i++) {
            if (!parts[i].matches("0|[1-9][0-9]{0,2}") || Integer.parseInt(parts[i]) > 255) {
                return null;
            }
            out[i] = (byte) Integer.parseInt(parts[i]);
        }
        return out;
    }

    private static byte[] bytes6(String text) {
        int zone = text.indexOf('%');
        if (zone >= 0) {
            if (zone == text.length() - 1) {
                return null;
            }
            text = text.substring(0, zone);
        }
        int gap = text.indexOf("::");
        byte[] left = groups(gap < 0 ? text : text.substring(0, gap));
        byte[] right = gap < 0 ? new byte[0] : groups(text.substring(gap + 2));
        if (left == null || right == null || (gap < 0 ? left.length != 16 : left.length + right.length > 14)) {
            return null;
        }
        byte[] out = Arrays.copyOf(left, 16);
        System.arraycopy(right, 0, out, 16 - right.length, right.length);
        return out;
    }

    /** Returns the bytes of groups between colons, of which the last may be an IPv4 address; null if they are not. */
    private static byte[] groups(String text) {
        if (text.isEmpty()) {
            return new byte[0];
        }
        String[] parts = text.split(":", -1);
        byte[] out = new byte[parts.length * 2];
        for (int i = 0; i < parts.length; i++) {
            byte[] four = i == parts.length - 1 ? bytes4(parts[i]) : null;
            if (four != null) {
                out = Arrays.copyOf(out, out.length + 2);
                System.arraycopy(four, 0, out, out.length - 4, 4);
            } else if (parts[i].matches("[0-9a-fA-F]{1,4}")) {
                int group = Integer.parseInt(parts[i], 16);
                out[2 * i] = (byte) (group >> 8);
                out[2 * i + 1] = (byte) group;
            } else {
                return null;
            }
        }
        return out;
    }

    private static String text4(byte[] a) {
        return (a[0] & 255) + "." + (a[1] & 255) + "." + (a[2] & 255) + "." + (a[3] & 255);
    }

    /** Returns an address as RFC 5952 writes it: the first longest run of two or more zeros is "::". */
    private static String text6(byte[] a) {
        int start = -1;
        int length = 1;
        for (int i = 0; i < 8; i++) {
            int n = 0;
            while (i + n < 8 && a[2 * (i + n)] == 0 && a[2 * (i + n) + 1] == 0) {
                n++;
            }
            if (n > length) {
                start = i;
                length = n;
            }
        }
        var out = new StringBuilder();
        for (int i = 0; i < 8; i++) {
            if (i == start) {
                out.append("::");
                i += length - 1;
                continue;
            }
            if (out.length() > 0 && out.charAt(out.length() - 1) != ':') {
                out.append(':');
            }
            out.append(Integer.toHexString((a[2 * i] & 255) << 8 | a[2 * i + 1] & 255));
        }
        return out.toString();
    }
}
