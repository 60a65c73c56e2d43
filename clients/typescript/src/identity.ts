import { createHash } from "node:crypto";
import { BlockList, isIP } from "node:net";

/** A request of Node, as Express and Connect have it, or a Request of fetch. */
export interface AnyRequest {
  headers: Headers | Record<string, string | string[] | undefined>;
  socket?: { remoteAddress?: string | undefined } | undefined;
}

/**
 * Finds who makes a request. EXEMPT is somebody who has no limit. All for whom it is empty share one identifier,
 * "anonymous". `context` is what a fetch handler is given beside the request.
 */
export type Identifier<R, C = unknown> = (request: R, context: C) => string | undefined | null | Promise<string | undefined | null>;

/** The identifier of all requests that have none, so that leaving it out frees nobody from a limit. */
export const anonymous = "anonymous";

/** Returns the values of a header, as one; "" if there is none. */
export function headerOf(request: AnyRequest, name: string): string {
  const { headers } = request;
  if (typeof headers.get === "function") return (headers as Headers).get(name) ?? "";
  const value = (headers as Record<string, string | string[] | undefined>)[name.toLowerCase()] ?? "";
  return Array.isArray(value) ? value.join(", ") : value;
}

/** Identifies callers by the value of a header. Use it for a header that a proxy of yours sets: a caller could send what he likes. */
export function header(name: string): (request: AnyRequest) => string {
  return (request) => headerOf(request, name);
}

/** Identifies callers by the key in a header. The daemon is told a hash of it. */
export function apiKey(name: string): (request: AnyRequest) => string {
  return (request) => hashed("key:", headerOf(request, name));
}

/**
 * Identifies callers by the subject of the JWT in the Authorization header, or by the hash of a token that is not a JWT. It
 * does not verify the token: put it behind what does.
 */
export function bearerSubject(): (request: AnyRequest) => string {
  return (request) => subjectOf(headerOf(request, "authorization"));
}

/** Identifies callers by the first of all that finds something. */
export function firstOf<R, C = unknown>(...all: Identifier<R, C>[]): (request: R, context?: C) => Promise<string> {
  return async (request, context) => {
    for (const by of all) {
      const id = await by(request, context as C);
      if (id) return id;
    }
    return "";
  };
}

/** How `clientAddress` finds addresses. */
export interface AddressOptions<R, C> {
  /** The networks of your proxies, whose X-Forwarded-For is believed: "10.0.0.0/8", or one address. */
  trusted?: readonly string[];
  /** Returns the address that a request came from, where that is not known: see the page of the client. */
  peer?: (request: R, context: C) => string | undefined | null;
}

/**
 * Identifies callers by their IP address, and with IPv6 by its network of 64 bits. Behind proxies, name their networks:
 * then the address is the last in X-Forwarded-For that is not one of theirs. What a client writes there is on the left.
 */
export function clientAddress<R extends AnyRequest = AnyRequest, C = unknown>(options: AddressOptions<R, C> = {}): (request: R, context?: C) => string {
  const trusted = networks(options.trusted ?? []);
  const peerOf = options.peer ?? knownPeer;
  return (request, context) => addressOf(trusted, peerOf(request, context as C) ?? "", headerOf(request, "x-forwarded-for"));
}

/** Returns the address that Node, or Deno, says that a request came from. */
function knownPeer(request: AnyRequest, context: unknown): string | undefined {
  const { remoteAddr } = (context ?? {}) as { remoteAddr?: { hostname?: string } };
  return request.socket?.remoteAddress ?? remoteAddr?.hostname;
}

/** Returns the networks of some names. It throws if one is not a network, as that is a mistake in the program. */
function networks(names: readonly string[]): BlockList {
  const all = new BlockList();
  for (const name of names) {
    const [text = "", bits, ...more] = name.split("/");
    const address = parse(text);
    const mapped = isIP(text) === 6 && isIP(address) === 4 ? 96 : 0;
    const width = isIP(address) === 4 ? 32 : 128;
    const prefix = bits === undefined ? width : /^\d+$/.test(bits) ? Number(bits) - mapped : -1;
    if (!isIP(text) || more.length > 0 || prefix < 0 || prefix > width) {
      throw new RangeError(`ratelimitd: trusted proxy ${JSON.stringify(name)}: write a network or an address, such as 10.0.0.0/8`);
    }
    all.addSubnet(address, prefix, width === 32 ? "ipv4" : "ipv6");
  }
  return all;
}

/** Returns the address of the client of a request that a peer has sent. Each trusted proxy has added on the right whom it was asked by. */
function addressOf(trusted: BlockList, peer: string, forwarded: string): string {
  let client = parse(peer);
  const trusts = (address: string): boolean => trusted.check(address, isIP(address) === 4 ? "ipv4" : "ipv6");
  const hops = forwarded.split(",");
  while (hops.length > 0 && client !== "" && trusts(client)) {
    const hop = parse(hops.pop()!.trim());
    if (hop === "") break;
    client = hop;
  }
  if (isIP(client) !== 6) return client;
  return `${canonical(`${groupsOf(client).slice(0, 4).join(":")}::`)}/64`;
}

/** Returns the address that a text is, with or without a port, in one form for all the ways to write it; "" if it is not an address. */
function parse(text: string): string {
  let address = text.replace(/^\[(.*)\](:\d+)?$/, "$1");
  if (address === text && /^[^:]+:\d+$/.test(text)) address = text.slice(0, text.indexOf(":"));
  address = address.replace(/%.*$/, ""); // a zone
  if (isIP(address) !== 6) return isIP(address) === 4 ? address : "";
  const groups = groupsOf(canonical(address));
  if (groups.slice(0, 6).join(":") !== "0:0:0:0:0:ffff") return canonical(address);
  return groups.slice(6).flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 255]).join(".");
}

/** Returns an IPv6 address in the form of RFC 5952. */
function canonical(address: string): string {
  return new URL(`http://[${address}]`).hostname.slice(1, -1);
}

/** Returns the eight groups of a canonical IPv6 address. */
function groupsOf(address: string): string[] {
  const [head = "", tail] = address.split("::");
  const left = head === "" ? [] : head.split(":");
  if (tail === undefined) return left;
  const right = tail === "" ? [] : tail.split(":");
  return [...left, ...new Array<string>(8 - left.length - right.length).fill("0"), ...right];
}

/** Returns a prefix and enough of the hash of a secret to tell it from others. */
function hashed(prefix: string, secret: string): string {
  return secret === "" ? "" : prefix + createHash("sha256").update(secret).digest("hex").slice(0, 32);
}

/** Returns the subject of the JWT in an Authorization header, or else the hash of the token; "" if there is none. */
function subjectOf(authorization: string): string {
  const token = /^bearer +(.*)$/i.exec(authorization.trim())?.[1]?.trim() ?? "";
  const parts = token.split(".");
  if (parts.length === 3) {
    try {
      const { sub } = JSON.parse(Buffer.from(parts[1]!, "base64url").toString()) as { sub?: unknown };
      if (typeof sub === "string" && sub !== "") return sub;
    } catch {
      // it is no JWT
    }
  }
  return hashed("token:", token);
}
