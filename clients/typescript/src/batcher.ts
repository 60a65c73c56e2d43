import type { ClientDuplexStream, Metadata, StatusObject } from "@grpc/grpc-js";
import { status } from "@grpc/grpc-js";
import protobuf from "protobufjs/minimal.js";

import * as api from "./api.js";
import { callErrorOf, cancelled, closed } from "./connection.js";
import type { Connection } from "./connection.js";
import { CallError } from "./result.js";

/** How many requests the daemon takes in a message. */
const maxBatch = 1000;

/** Fits the shortest --max-message-bytes that a daemon may have, and the window of HTTP/2. */
const maxBatchBytes = 60_000;

/** For how many ms a message is waited for while others queue behind it, even if one of its callers has more time. */
const maxFlight = 1000;

/** For how many ms calls go on their own after a daemon, or a proxy before it, has said that it has no streams. */
const unaryFor = 60_000;

/** A ShouldAllowRequest, encoded in two parts: what a limiter always sends, and the rest. */
export interface EncodedRequest {
  head: Buffer;
  tail: Buffer;
}

/** How long a caller waits for an answer. */
export interface Patience {
  /** In ms. */
  timeout: number;
  signal?: AbortSignal | undefined;
}

/** One request that waits for its answer. */
interface Call {
  request: EncodedRequest;
  deadline: number;
  signal: AbortSignal | undefined;
  timer: NodeJS.Timeout;
  /** Leaves as the signal says. */
  abort: () => void;
  /** It has been sent before, on a stream that ended without deciding it. */
  again: boolean;
  /** It has its answer, or its caller has gone. */
  over: boolean;
  resolve: (response: api.ShouldAllowResponse | Promise<api.ShouldAllowResponse>) => void;
  reject: (error: CallError) => void;
}

type Stream = ClientDuplexStream<Buffer, Buffer>;

/**
 * Has calls share the messages of one stream. A call that finds nothing under way is sent at once. Those that are made
 * until its answer comes go together in the next message. So the busier the client is, the larger its messages are,
 * and no call waits for others to come.
 */
export class Batcher {
  readonly #connection: Connection;
  readonly #queue = new Set<Call>();
  /** The calls of the message that is under way. */
  #flight: Call[] = [];
  /** When that has been waited for long enough. */
  #overdue = 0;
  #stream: Stream | undefined;
  #opening = false;
  /** The stream has had an answer. */
  #answered = false;
  /** Until then calls go on their own. */
  #unary = 0;
  #closed = false;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Returns the answer. It throws a CallError. */
  ask(request: EncodedRequest, { timeout, signal }: Patience): Promise<api.ShouldAllowResponse> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(cancelled());
      if (this.#closed) return reject(closed());
      const now = performance.now();
      const call: Call = {
        request, deadline: now + timeout, signal, again: false, over: false, resolve, reject,
        timer: setTimeout(() => this.#leave(call, new CallError("DEADLINE_EXCEEDED", `no answer in ${timeout} ms`)), timeout),
        abort: () => this.#leave(call, cancelled()),
      };
      signal?.addEventListener("abort", call.abort);
      if (now < this.#unary) return this.#alone(call);
      this.#queue.add(call);
      if (this.#stream === undefined) this.#open();
      else this.#send();
    });
  }

  /** Answers all calls, and ends the stream. */
  close(): void {
    this.#closed = true;
    this.#giveUp(closed());
  }

  /** Sends a call on its own. */
  #alone(call: Call): void {
    const { request, signal, deadline } = call;
    finish(call);
    const until = { deadline: Date.now() + deadline - performance.now(), signal };
    call.resolve(askAlone(this.#connection, request, until));
  }

  /** Opens a stream, unless that is under way, and sends what is queued. */
  #open(): void {
    if (this.#opening) return;
    this.#opening = true;
    this.#connection.stream(api.method.ShouldAllowStream, Date.now() + maxFlight, (stream) => {
      this.#opening = false;
      this.#stream = stream;
      this.#answered = false;
      stream.on("data", (message: Buffer) => {
        if (this.#stream === stream) this.#receive(message);
      });
      stream.on("error", () => {}); // it is the status too
      stream.on("status", (s: StatusObject) => {
        if (this.#stream !== stream) return;
        this.#stream = undefined;
        this.#end(s.code === status.OK ? new CallError("UNAVAILABLE", "the daemon has ended the stream") : callErrorOf(s), s.metadata);
      });
      this.#send();
    });
  }

  /** Puts what is queued under way, unless something is. */
  #send(): void {
    if (this.#stream === undefined || this.#flight.length > 0 || this.#queue.size === 0) return;
    const now = performance.now();
    let bytes = 0;
    this.#overdue = now;
    for (const call of this.#queue) {
      const size = sizeOf(call.request);
      if (this.#flight.length === maxBatch || (bytes > 0 && bytes + size > maxBatchBytes)) break;
      bytes += size;
      this.#overdue = Math.max(this.#overdue, call.deadline);
      this.#queue.delete(call);
      this.#flight.push(call);
    }
    this.#overdue = Math.min(this.#overdue, now + maxFlight);
    this.#stream.write(encode(this.#flight, bytes));
  }

  /** Ends a call whose caller waits no longer. The stream is given up if its message has been waited for long enough. */
  #leave(call: Call, error: CallError): void {
    if (!finish(call)) return;
    this.#queue.delete(call);
    call.reject(error);
    // The next calls are to find another stream, and perhaps another daemon. A timer may be early by less than 1 ms.
    if (this.#flight.length > 0 && performance.now() > this.#overdue - 1) {
      this.#giveUp(new CallError("UNAVAILABLE", "the daemon does not answer in time"));
    }
  }

  #giveUp(error: CallError): void {
    const stream = this.#stream;
    this.#stream = undefined;
    stream?.cancel();
    this.#answered = true; // what is queued may find another daemon
    this.#end(error);
  }

  /** Gives the calls under way their answers, and sends those that have come since. */
  #receive(message: Buffer): void {
    let results: api.ShouldAllowResult[];
    try {
      ({ results } = api.readShouldAllowBatchResponse(protobuf.Reader.create(message)));
    } catch (error) {
      return this.#giveUp(new CallError("INTERNAL", `the daemon's answer cannot be read: ${String(error)}`));
    }
    const flight = this.#flight;
    const whole = results.length === 1 && flight.length !== 1; // the error of the message itself
    if (results.length !== flight.length && !whole) {
      return this.#giveUp(new CallError("INTERNAL", `the daemon answers ${flight.length} requests with ${results.length} results`));
    }
    this.#answered = true;
    this.#flight = [];
    this.#send();
    flight.forEach((call, i) => answer(call, results[whole ? 0 : i]!));
  }

  /**
   * Answers the calls of a stream that has ended. Those that the daemon has certainly not decided are sent again. Those
   * that it may have decided are not, lest they are charged twice.
   */
  #end(error: CallError, metadata?: Metadata): void {
    const calls = this.#flight;
    this.#flight = [];
    const alone = error.code === "UNIMPLEMENTED" && !this.#closed;
    if (alone) this.#unary = performance.now() + unaryFor;
    const again = error.code === "UNAVAILABLE" && (hasRetryInfo(metadata) || error.message === refused);
    if (alone || this.#closed || !(this.#answered || again)) {
      calls.push(...this.#queue);
      this.#queue.clear();
    }
    for (const call of calls) {
      if (call.over) continue;
      if (alone) {
        this.#alone(call);
      } else if (again && !call.again) {
        call.again = true;
        this.#queue.add(call);
      } else {
        finish(call);
        call.reject(error);
      }
    }
    if (this.#queue.size > 0 && this.#stream === undefined) this.#open();
  }
}

/** Sends a request on its own. It throws a CallError. */
export async function askAlone(connection: Connection, { head, tail }: EncodedRequest, until: { deadline: number; signal?: AbortSignal | undefined }): Promise<api.ShouldAllowResponse> {
  const response = await connection.unary(api.method.ShouldAllow, Buffer.concat([head, tail]), until);
  return api.readShouldAllowResponse(protobuf.Reader.create(response));
}

/** Reports whether a call was not over yet. */
function finish(call: Call): boolean {
  if (call.over) return false;
  call.over = true;
  clearTimeout(call.timer);
  call.signal?.removeEventListener("abort", call.abort);
  return true;
}

function answer(call: Call, { response, error }: api.ShouldAllowResult): void {
  if (!finish(call)) return;
  if (response !== undefined) call.resolve(response);
  else call.reject(error === undefined ? new CallError("INTERNAL", "the daemon's answer is empty") : new CallError(error.code, error.message));
}

/** What grpc-js says of a stream that the daemon has not taken, as its connection is old. */
const refused = "Stream refused by server";

/** Reports whether a status says when to ask again: then what has no answer was not decided. */
function hasRetryInfo(metadata: Metadata | undefined): boolean {
  const [details] = metadata?.get("grpc-status-details-bin") ?? [];
  if (!(details instanceof Uint8Array)) return false;
  try {
    return api.readStatus(protobuf.Reader.create(details)).details.some((d) => d.typeUrl.endsWith("/google.rpc.RetryInfo"));
  } catch {
    return false;
  }
}

/** The tag of ShouldAllowBatchRequest.requests: field 1, with a length. */
const tag = 10;

/** Returns about how many bytes a request needs in a message. */
function sizeOf({ head, tail }: EncodedRequest): number {
  return head.length + tail.length + 6; // a tag, and a length of up to 5
}

/** Returns the ShouldAllowBatchRequest of calls, for which so many bytes are enough. */
function encode(calls: Call[], bytes: number): Buffer {
  const message = Buffer.allocUnsafe(bytes);
  let at = 0;
  for (const { request } of calls) {
    message[at++] = tag;
    let length = request.head.length + request.tail.length;
    for (; length > 127; length >>>= 7) message[at++] = (length & 127) | 128;
    message[at++] = length;
    message.set(request.head, at);
    at += request.head.length;
    message.set(request.tail, at);
    at += request.tail.length;
  }
  return message.subarray(0, at);
}
