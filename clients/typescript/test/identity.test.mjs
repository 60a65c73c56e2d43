import assert from "node:assert/strict";
import { test } from "node:test";

import { apiKey, bearerSubject, clientAddress } from "ratelimitd/express";

const proxies = ["10.0.0.0/8", "::1", "::ffff:192.168.0.0/112"];

for (const [peer, forwarded, trusted, want] of [
  ["192.0.2.1", undefined, [], "192.0.2.1"],
  ["192.0.2.1", "198.51.100.7", [], "192.0.2.1"], // nobody is trusted
  ["192.0.2.1", "198.51.100.7", proxies, "192.0.2.1"], // not this peer
  ["10.0.0.1", "198.51.100.7", proxies, "198.51.100.7"], // the proxy says so
  ["10.0.0.1", "6.6.6.6, 198.51.100.7", proxies, "198.51.100.7"], // and the client wrote what is left of it
  ["10.0.0.1", "6.6.6.6, 198.51.100.7, 10.0.0.2", proxies, "198.51.100.7"],
  ["10.0.0.1", ["6.6.6.6", "198.51.100.7", "10.0.0.2"], proxies, "198.51.100.7"],
  ["10.0.0.1", "10.0.0.3, 10.0.0.2", proxies, "10.0.0.3"], // all are trusted
  ["10.0.0.1", "198.51.100.7, unknown", proxies, "10.0.0.1"],
  ["10.0.0.1", "198.51.100.7,", proxies, "10.0.0.1"],
  ["10.0.0.1", "198.51.100.7:443", proxies, "198.51.100.7"],
  ["10.0.0.1", undefined, proxies, "10.0.0.1"],
  ["192.168.0.9", "[2001:db8:1:2:3::4]:443", proxies, "2001:db8:1:2::/64"],
  ["::1", "2001:DB8:1:2:ffff::9", proxies, "2001:db8:1:2::/64"],
  ["::ffff:192.0.2.1", undefined, [], "192.0.2.1"],
  ["::ffff:10.0.0.1", "198.51.100.7", proxies, "198.51.100.7"],
  ["fe80::1%eth0", undefined, [], "fe80::/64"],
  ["::2", undefined, [], "::/64"],
  ["@", undefined, [], ""],
  [undefined, undefined, [], ""],
]) {
  test(`the client of ${peer}, ${forwarded} behind ${trusted}`, () => {
    assert.equal(clientAddress({ trusted })({ headers: { "x-forwarded-for": forwarded }, socket: { remoteAddress: peer } }), want);
  });
}

test("networks that are none", () => {
  for (const name of ["10.0.0.0/33", "10.0.0/8", "10.0.0.0/8/8", "proxy", "10.0.0.0/", ""]) {
    assert.throws(() => clientAddress({ trusted: [name] }), { message: `ratelimitd: trusted proxy "${name}": write a network or an address, such as 10.0.0.0/8` });
  }
});

test("bearer subjects and keys", () => {
  const jwt = `e30.${Buffer.from('{"sub":"user:42","exp":1}').toString("base64url")}.c2ln`;
  for (const [authorization, want] of [
    [undefined, ""],
    ["Basic abc", ""],
    ["Bearer ", ""],
    [`Bearer ${jwt}`, "user:42"],
    [`bearer  ${jwt}`, "user:42"],
    ["Bearer a.b.c", "token:845e30448809e2bc8958eb025bfc7952"],
    ["Bearer opaque", "token:6d229884c1268bb0ab32d8da315d0fe5"],
    ["Bearer e30.e30.", "token:2c168bb011ce2543df31fbe947518b44"],
  ]) {
    assert.equal(bearerSubject()({ headers: { authorization } }), want, authorization);
  }
  assert.equal(apiKey("X-API-Key")({ headers: new Headers({ "x-api-key": "secret" }) }), "key:2bb80d537b1da3e38bd30361aa855686");
  assert.equal(apiKey("X-API-Key")({ headers: {} }), "");
});
