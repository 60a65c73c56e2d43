package io.github.ratelimitd.client.middleware;

import com.google.gson.JsonElement;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import com.google.gson.Strictness;
import com.google.gson.stream.JsonReader;
import com.google.gson.stream.JsonToken;
import java.io.IOException;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.function.Function;

/**
 * Functions that find who makes a request. They return "" if they find nobody: all such requests share the identifier
 * "anonymous". A function of yours may return {@link io.github.ratelimitd.client.Limiter#EXEMPT} for whoever has no limit.
 */
public final class Identifiers {
    private Identifiers() {}

    /** The value of a header. Use it for a header that a proxy of yours sets: a caller could send what he likes. */
    public static Function<Request, String> header(String name) {
        return request -> request.header(name);
    }

    /** The key in a header. The daemon is told a hash of it. */
    public static Function<Request, String> apiKey(String name) {
        return request -> hashed("key:", request.header(name));
    }

    /**
     * The subject of the JWT in the Authorization header, or the hash of a token that is not a JWT. It does not verify the token: put
     * it behind what does.
     */
    public static Function<Request, String> bearerSubject() {
        return request -> bearerSubject(request.header("Authorization"));
    }

    /**
     * The IP address of the client, and with IPv6 its network of 64 bits. Behind proxies, name their networks, such as
     * "10.0.0.0/8": then it is the last address in X-Forwarded-For that is not one of theirs.
     *
     * @throws IllegalArgumentException if a network cannot be read
     */
    public static Function<Request, String> clientAddress(String... trusted) {
        List<Network> proxies = List.of(trusted).stream().map(Network::parse).toList();
        return request -> Network.clientOf(request.peer(), request.headers("X-Forwarded-For"), proxies);
    }

    /** The first of all that finds something. */
    @SafeVarargs
    public static Function<Request, String> firstOf(Function<Request, String>... all) {
        List<Function<Request, String>> list = List.of(all);
        return request -> {
            for (var by : list) {
                String identifier = by.apply(request);
                if (identifier != null && !identifier.isEmpty()) {
                    return identifier;
                }
            }
            return "";
        };
    }

    private static String bearerSubject(String authorization) {
        int space = authorization.indexOf(' ');
        if (space < 0 || !authorization.substring(0, space).equalsIgnoreCase("bearer")) {
            return "";
        }
        String token = authorization.substring(space).trim();
        String[] parts = token.split("\\.", -1);
        String subject = parts.length == 3 ? subject(parts[1]) : "";
        return subject.isEmpty() ? hashed("token:", token) : subject;
    }

    /** Returns the subject of the claims of a JWT, or "". */
    private static String subject(String claims) {
        try {
            var reader = new JsonReader(new StringReader(new String(Base64.getUrlDecoder().decode(claims), StandardCharsets.UTF_8)));
            reader.setStrictness(Strictness.STRICT);
            JsonElement all = JsonParser.parseReader(reader);
            JsonElement subject = all.isJsonObject() && reader.peek() == JsonToken.END_DOCUMENT ? all.getAsJsonObject().get("sub") : null;
            return subject != null && subject.isJsonPrimitive() && subject.getAsJsonPrimitive().isString() ? subject.getAsString() : "";
        } catch (IllegalArgumentException | JsonParseException | IOException e) {
            return ""; // it is no JWT
        }
    }

    /** Returns a prefix and enough of the hash of a secret to tell it from others; "" of none. */
    private static String hashed(String prefix, String secret) {
        if (secret.isEmpty()) {
            return "";
        }
        try {
            byte[] sum = MessageDigest.getInstance("SHA-256").digest(secret.getBytes(StandardCharsets.UTF_8));
            return prefix + HexFormat.of().formatHex(sum, 0, 16);
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("each Java has SHA-256", e);
        }
    }
}
