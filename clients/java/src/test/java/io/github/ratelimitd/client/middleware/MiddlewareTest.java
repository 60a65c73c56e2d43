package io.github.ratelimitd.client.middleware;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.provider.CsvSource;

class MiddlewareTest {
    private record Fake(String method, String path, String peer, Map<String, List<String>> all) implements Request {
        @Override
        public List<String> headers(String name) {
            return all.getOrDefault(name, List.of());
        }

        @Override
        public Object content() {
            return null;
        }
    }

    private static Request from(String peer, String... forwarded) {
        return new Fake("GET", "/", peer, Map.of("X-Forwarded-For", List.of(forwarded)));
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
            192.0.2.1            |                                    | 192.0.2.1
            192.0.2.1:4711       | 203.0.113.9                        | 192.0.2.1
            10.0.0.1             | 203.0.113.9                        | 203.0.113.9
            10.0.0.1             | 198.51.100.7, 203.0.113.9          | 203.0.113.9
            10.0.0.1             | 198.51.100.7, 203.0.113.9, 10.2.3.4| 203.0.113.9
            10.0.0.1             | 10.0.0.3, 10.0.0.2                 | 10.0.0.3
            10.0.0.1             | 203.0.113.9, junk                  | 10.0.0.1
            10.0.0.1             | 203.0.113.9:99                     | 203.0.113.9
            10.0.0.1             | 203.0.113.009                      | 10.0.0.1
            ::ffff:10.0.0.1      | ::ffff:203.0.113.9                 | 203.0.113.9
            10.0.0.1             | [2001:db8::7]:443                  | 2001:db8::/64
            2001:db8:0:1:2:3:4:5 |                                    | 2001:db8:0:1::/64
            2001:0DB8:1:2::1     |                                    | 2001:db8:1:2::/64
            fe80::1%eth0         |                                    | fe80::/64
            ::1                  | 203.0.113.9                        | 203.0.113.9
            1:2:3:4:5:6:7:8:9    |                                    | ''
            unix                 | 203.0.113.9                        | ''
            """)
    void findsTheClient(String peer, String forwarded, String want) {
        var by = Identifiers.clientAddress("10.0.0.0/8", "::1");
        assertEquals(want, by.apply(forwarded == null ? from(peer) : from(peer, forwarded)));
    }

    @Test
    void refusesWhatIsNoNetwork() {
        for (String wrong : List.of("10.0.0.0/33", "10.0.0/8", "proxy", "::/129", "::ffff:10.0.0.0/95", "10.0.0.0/-1")) {
            var error = assertThrows(IllegalArgumentException.class, () -> Identifiers.clientAddress(wrong));
            assertEquals("ratelimitd: trusted proxy \"" + wrong + "\": write a network or an address, such as 10.0.0.0/8", error.getMessage());
        }
        assertEquals("203.0.113.9", Identifiers.clientAddress("::ffff:10.0.0.0/104").apply(from("10.1.2.3", "203.0.113.9")));
    }

    @Test
    void findsSubjectsAndKeys() {
        assertEquals("alice", subject("{\"sub\": \"alice\"}"));
        assertTrue(subject("{\"sub\": 7}").startsWith("token:"));
        assertTrue(subject("{'sub': 'alice'}").startsWith("token:"));
        assertTrue(subject("{\"sub\": \"alice\"} x").startsWith("token:"));
        assertTrue(subject("[".repeat(100_000)).startsWith("token:"));
        assertEquals("", bearer("Basic YTpi"));
        assertEquals("", bearer("Bearer "));
        assertEquals("token:2bb80d537b1da3e38bd30361aa855686", bearer("bearer secret"));
        var key = new Fake("GET", "/", "", Map.of("X-API-Key", List.of("secret")));
        assertEquals("key:2bb80d537b1da3e38bd30361aa855686", Identifiers.firstOf(Identifiers.header("X-User"), Identifiers.apiKey("X-API-Key")).apply(key));
    }

    private static String subject(String claims) {
        return bearer("Bearer e30." + Base64.getUrlEncoder().withoutPadding().encodeToString(claims.getBytes(StandardCharsets.UTF_8)) + ".c2ln");
    }

    private static String bearer(String authorization) {
        return Identifiers.bearerSubject().apply(new Fake("GET", "/", "", Map.of("Authorization", List.of(authorization))));
    }

    @Test
    void matchesMethodsAndPaths() {
        Rule orders = Rule.path("/orders").methods("POST");
        assertTrue(orders.matches(new Fake("POST", "/orders", "", Map.of())));
        assertFalse(orders.matches(new Fake("GET", "/orders", "", Map.of())));
        assertFalse(orders.matches(new Fake("POST", "/orders/7", "", Map.of())));
        Rule below = Rule.path("/orders/");
        assertTrue(below.matches(new Fake("GET", "/orders", "", Map.of())));
        assertTrue(below.matches(new Fake("GET", "/orders/7", "", Map.of())));
        assertFalse(below.matches(new Fake("GET", "/ordersx", "", Map.of())));
        assertTrue(Rule.all().matches(new Fake("GET", "/any", "", Map.of())));
        assertNull(Rules.of(orders).callerOf(new Fake("GET", "/", "", Map.of())));
    }
}
