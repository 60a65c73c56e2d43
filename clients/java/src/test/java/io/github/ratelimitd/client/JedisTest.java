package io.github.ratelimitd.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import redis.clients.jedis.CommandArguments;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.Pipeline;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.commands.ProtocolCommand;
import redis.clients.jedis.exceptions.JedisDataException;
import redis.clients.jedis.util.KeyValue;

/** The daemon over the protocol of Redis, with a client of Redis. */
final class JedisTest {
    private static ProtocolCommand command(String name) {
        return () -> name.getBytes(StandardCharsets.US_ASCII);
    }

    private static final ProtocolCommand ALLOW = command("RL.ALLOW");

    @ParameterizedTest
    @EnumSource(value = RedisProtocol.class, names = {"RESP2", "RESP3"})
    void asks(RedisProtocol protocol) {
        try (var daemon = new Daemon("--resp-addr=127.0.0.1:0");
             var jedis = new Jedis(HostAndPort.from(daemon.resp()), DefaultJedisClientConfig.builder().protocol(protocol).clientName("tests").build())) {
            assertEquals("PONG", jedis.ping());
            for (boolean allowed : new boolean[] {true, true, false}) {
                assertEquals(allowed, allowed(jedis.sendCommand(ALLOW, "checkout", "user:42", "2/min")));
            }
            assertEquals(List.of(0L, 16L, 15L, -1L, 2L), jedis.sendCommand(command("CL.THROTTLE"), "user:42", "15", "30", "60"));

            Pipeline pipeline = jedis.pipelined();
            for (int i = 0; i < 100; i++) {
                pipeline.sendCommand(new CommandArguments(ALLOW).add("checkout").add("user:43").add("60/h"));
            }
            assertEquals(60, pipeline.syncAndReturnAll().stream().filter(JedisTest::allowed).count());

            var error = assertThrows(JedisDataException.class, () -> jedis.sendCommand(ALLOW, "checkout", "user:42", "2/fortnight"));
            assertTrue(error.getMessage().contains("unknown unit \"fortnight\""), error.getMessage());
        }
    }

    /** Whether a reply allows: the first of five integers, or the first entry of a map. */
    private static boolean allowed(Object reply) {
        Object first = ((List<?>) reply).get(0);
        return first instanceof KeyValue<?, ?> entry ? (Boolean) entry.getValue() : (Long) first == 1;
    }
}
