import { Client, connectivityState, credentials, Metadata } from "@grpc/grpc-js";
import type { ChannelCredentials, ChannelOptions, ClientDuplexStream, ClientUnaryCall, ServiceError } from "@grpc/grpc-js";

import * as health from "./health.js";
import { CallError } from "./result.js";

/** Where a daemon on this machine serves gRPC. */
const defaultAddress = "127.0.0.1:8081";

/** How to reach the daemons. */
export interface ConnectionOptions {
  /** Those of the daemons, as host:port. Calls go to all that are healthy, in turn; so they do to all addresses that one name has. */
  addresses?: readonly string[];
  /** true trusts the authorities that Node trusts. */
  tls?: boolean | TLSOptions;
  /** A bearer token. Without TLS it can be read on the way. */
  token?: string;
}

/** What TLS needs, in PEM. */
export interface TLSOptions {
  /** The authorities to trust. Absent: those that Node trusts. */
  ca?: string | Uint8Array;
  /** The certificate of this client, and its key. */
  cert?: string | Uint8Array;
  key?: string | Uint8Array;
  /** The name that the daemon's certificate must have, if it is not the host. */
  serverName?: string;
}

const channelOptions: ChannelOptions = {
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ [health.policy]: {} }] }),
  "grpc.service_config_disable_resolution": 1,
  // A daemon that is back is to be found within a second. gRPC's own pauses grow to two minutes.
  "grpc.initial_reconnect_backoff_ms": 50,
  "grpc.max_reconnect_backoff_ms": 250, // and a fifth at random
  // These find a daemon that is gone without a word. It permits a ping every 10 s.
  "grpc.keepalive_time_ms": 15_000,
  "grpc.keepalive_timeout_ms": 2_000,
  "grpc.keepalive_permit_without_calls": 1,
  "grpc.client_idle_timeout_ms": 2 ** 31 - 1,
  "grpc.enable_channelz": 0,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.primary_user_agent": "ratelimitd-node",
};

/** When a call ends without an answer. */
export interface Until {
  /** In ms of the system's clock. */
  deadline: number;
  signal?: AbortSignal | undefined;
}

/** The connections to the daemons. */
export class Connection {
  readonly #clients: Client[];
  readonly #metadata = new Metadata();
  #turn = 0;
  #closed = false;

  constructor(o: ConnectionOptions) {
    if (o.token !== undefined && !/^[!-~]+$/.test(o.token)) {
      throw new RangeError("ratelimitd: token: it has a character that no token has; give one token without spaces");
    }
    if (o.token !== undefined) this.#metadata.set("authorization", `Bearer ${o.token}`);
    const targets = (o.addresses?.length ? o.addresses : [defaultAddress]).map(targetOf);
    const serverName = typeof o.tls === "object" ? o.tls.serverName : undefined;
    const options = serverName === undefined ? channelOptions : { ...channelOptions, "grpc.ssl_target_name_override": serverName };
    this.#clients = targets.map((target) => new Client(target, credentialsOf(o.tls), options));
    for (const client of this.#clients) client.getChannel().getConnectivityState(true);
  }

  /** Sends one message, and returns the answer. It throws a CallError. */
  unary(path: string, request: Buffer, { deadline, signal }: Until): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      let call: ClientUnaryCall | undefined;
      const cancel = (): void => (call === undefined ? reject(cancelled()) : call.cancel());
      const begin = (client: Client): void => {
        if (signal?.aborted) return reject(cancelled());
        if (this.#closed) return reject(closed());
        call = client.makeUnaryRequest(path, same, same, request, this.#metadata.clone(), { deadline }, (error, response) => {
          signal?.removeEventListener("abort", cancel);
          if (error) reject(callErrorOf(error));
          else resolve(response!);
        });
      };
      signal?.addEventListener("abort", cancel);
      then(this.#next(deadline), begin);
    });
  }

  /** Opens a stream, at the latest when the deadline has come, and gives it to `begin`. Its "status" event ends it. */
  stream(path: string, deadline: number, begin: (stream: ClientDuplexStream<Buffer, Buffer>) => void): void {
    then(this.#next(deadline), (client) => {
      if (!this.#closed) begin(client.makeBidiStreamRequest(path, same, same, this.#metadata.clone(), {}));
    });
  }

  close(): void {
    this.#closed = true;
    for (const client of this.#clients) client.close();
  }

  /** Returns the next that has a healthy daemon; or waits, while one may soon have. */
  #next(deadline: number): Client | Promise<Client> {
    const n = this.#clients.length;
    const inTurn = Array.from({ length: n }, (_, i) => this.#clients[(this.#turn + i) % n]!);
    this.#turn++;
    if (n === 1 || this.#closed) return inTurn[0]!;
    const states = inTurn.map((client) => client.getChannel().getConnectivityState(true));
    const ready = states.indexOf(connectivityState.READY);
    if (ready >= 0) return inTurn[ready]!;
    const soon = inTurn.filter((_, i) => states[i] !== connectivityState.TRANSIENT_FAILURE && states[i] !== connectivityState.SHUTDOWN);
    if (soon.length === 0 || Date.now() >= deadline) return inTurn[0]!;
    return new Promise<void>((changed) => {
      for (const client of soon) {
        const channel = client.getChannel();
        channel.watchConnectivityState(channel.getConnectivityState(false), deadline, () => changed());
      }
    }).then(() => this.#next(deadline));
  }
}

/** Does something with a value, at once if that is there. */
function then<T>(value: T | Promise<T>, use: (value: T) => void): void {
  if (value instanceof Promise) void value.then(use);
  else use(value);
}

/** Is how grpc-js is to encode and decode what is encoded already. */
function same(message: Buffer): Buffer {
  return message;
}

/** Returns the error of a caller that has ended its call. */
export function cancelled(): CallError {
  return new CallError("CANCELLED", "the caller has cancelled the call");
}

/** Returns the error of calls that a closed client makes, or has made. */
export function closed(): CallError {
  return new CallError("CANCELLED", "the client is closed");
}

/** Returns what went wrong in a call. */
export function callErrorOf(error: unknown): CallError {
  if (error instanceof CallError) return error;
  const { code, details, message } = error as Partial<ServiceError>;
  return new CallError(code ?? "UNKNOWN", details || message || String(error));
}

/** Returns the target of gRPC that an address stands for, with the port of ratelimitd if it has none. */
function targetOf(address: string): string {
  if (address.includes("/")) return address; // a target of gRPC, such as unix:///run/ratelimitd.sock
  const [, host, port = ":8081"] = /^(\[[^\]\s]+\]|[^:\s]+)(:\d+)?$/.exec(address) ?? [];
  if (host === undefined) {
    throw new RangeError(`ratelimitd: addresses: ${JSON.stringify(address.slice(0, 100))}: write host:port, such as ratelimitd:8081`);
  }
  return `dns:${host}${port}`;
}

function credentialsOf(tls: boolean | TLSOptions | undefined): ChannelCredentials {
  if (!tls) return unreferenced(credentials.createInsecure());
  const { ca, cert, key } = tls === true ? ({} as TLSOptions) : tls;
  const pem = (text: string | Uint8Array | undefined): Buffer | null => (text === undefined ? null : Buffer.from(text as Uint8Array));
  return unreferenced(credentials.createSsl(pem(ca), pem(key), pem(cert)));
}

/**
 * Has connections of `c` not keep the process running: grpc-js does so as long as a stream is open, and our streams
 * always are. A call under way has a timer, which keeps the process running until there is an answer.
 */
function unreferenced(c: ChannelCredentials): ChannelCredentials {
  const create = c._createSecureConnector.bind(c);
  c._createSecureConnector = (...of) => {
    const connector = create(...of);
    const connect = connector.connect.bind(connector);
    connector.connect = async (socket) => {
      const result = await connect(socket);
      for (const s of [socket, result.socket]) {
        s.unref();
        s.ref = () => s;
      }
      return result;
    };
    return connector;
  };
  return c;
}
