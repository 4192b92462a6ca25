/** One connection to a server of a stdio bus: its authentication, and its requests with its own ids. */

import { isSameToken } from "../check.ts";
import type { Clock, Timer } from "../clock.ts";
import { SlotbusError, RpcError } from "../errors.ts";
import type { Fault } from "./framing.ts";
import type { LinkIdentity } from "./events.ts";
import type { StdioRequestOptions } from "./options.ts";
import { type PeerLimits, type PeerOwner, type PeerRequest, RpcPeer } from "./peer.ts";
import { type Protocol, type ProtocolName, protocols } from "./protocol.ts";
import {
  AUTH,
  errorJson,
  idOf,
  kindOf,
  peekId,
  type Question,
  responseJson,
  RPC,
  type RpcId,
  type RpcMessage,
  settle,
  toJson,
} from "./rpc.ts";
import type { ByteSink } from "./writer.ts";

/** Time in which a connection must send the token, in ms. */
const AUTH_MS = 2_000;
/** Bytes in which a connection must send the token; the longest token fits. */
const AUTH_BYTES = 4_096;
/** Matches the beginning of an HTTP request. */
const HTTP = /^[A-Z]{3,7} \//;
/** Sessions of one client that receive notifications. The oldest one is dropped. */
const SESSIONS_MAX = 1_024;
/** Time in which a client must read the remaining bytes before its connection is closed, in ms. */
const END_MS = 1_000;

/** The pool that a server's clients use; they speak its protocol. */
export interface ServedPool {
  readonly options: { readonly id: string; readonly protocol: ProtocolName };
  /** Whether the next request with this key goes to this worker. */
  isOwner(key: string, worker: LinkIdentity): boolean;
  /** Whether this worker, draining or not, has a request with this key. */
  isAsked(key: string, worker: LinkIdentity): boolean;
}

/** Rules of a server for all its clients. */
export interface ClientRules extends PeerLimits {
  /** The pool of the clients; `null`: each message names its pool. */
  readonly served: ServedPool | null;
  /** Id of the pool, if the server's options name it. */
  readonly pool: string | null;
  /** Whether this is the client of standard input. It gets the messages that name no session. */
  readonly isStandard: boolean;
  /** Address of the server, for error messages. */
  readonly address: string;
  /** Token that the first message of a client must contain; `null`: none. */
  readonly token: string | null;
}

/** The part of the bus that clients use. */
export interface ClientHost {
  readonly clock: Clock;
  readonly counts: { connects: number; disconnects: number; refusals: number; lost: number };
  /** Sends a message to a worker, as `StdioCore.forward` does. */
  forward(
    message: RpcMessage,
    options: StdioRequestOptions,
    resolve: (response: unknown) => void,
    reject: (error: unknown) => void,
  ): void;
  /** Reports that the server closed a connection. */
  refused(why: string): void;
  /**
   * Returns the pool with this id, or the only pool. After a reload that removed the pool, returns `before`.
   *
   * @throws `UNKNOWN_POOL` when there is no such pool and no `before`.
   */
  servedPool(id: string | null, before: ServedPool | null): ServedPool | null;
}

/** The socket of a client, or standard input and output. */
export interface ClientSocket {
  readonly remoteAddress: string;
  /** Returns the number of bytes written; negative: the socket is closed. `Client.drained` is called when it can take more. */
  write(bytes: Uint8Array): number;
  pause(): void;
  resume(): void;
  /** Closes the socket after the bytes that were written. */
  end(): void;
  terminate(): void;
}

/** One connection. */
export class Client implements PeerOwner<Question>, ByteSink {
  readonly #sessions = new Set<string>();
  readonly #socket: ClientSocket;
  readonly #peer: RpcPeer<Question>;
  readonly #host: ClientHost;
  readonly #rules: ClientRules;
  readonly #protocol: Protocol;
  /** Pool and key of all its requests. With a protocol that has sessions, the connection is a session with its own key. */
  readonly #route: { readonly pool?: string; readonly key?: string };
  /** Bytes that the socket has not taken, and a function to call when it has. */
  #unsent: Uint8Array | null = null;
  #drained: (() => void) | null = null;
  /** Runs until the client has sent the token. */
  #authTimer: Timer | null = null;
  /** Bytes read before the token. */
  #authBytes = 0;
  /** Whether the client has sent the token, or needs none. */
  #isTrusted: boolean;
  /** Whether the client has sent a valid message. */
  #isKnown = false;
  /** Number of workers' requests sent to this client; used for their ids. */
  #asked = 0;
  /** Bytes received since the last time that everything was processed. */
  #aheadBytes = 0;
  #hasInputEnded = false;
  #isEnding = false;
  readonly #whenClosed = Promise.withResolvers<void>();

  constructor(socket: ClientSocket, host: ClientHost, rules: ClientRules) {
    this.#socket = socket;
    this.#host = host;
    this.#rules = rules;
    this.#protocol = protocols[rules.protocol];
    const hasSession = this.#protocol.greeting !== null;
    this.#route = hasSession
      ? { pool: rules.served!.options.id, key: `connection ${host.counts.connects}` }
      : { pool: rules.pool ?? undefined };
    this.#isTrusted = rules.token === null;
    if (!this.#isTrusted) {
      const why = `the client did not send the token within ${AUTH_MS} ms`;
      this.#authTimer = host.clock.after(AUTH_MS, () => this.#refuse(RPC.unauthorized, why));
    }
    this.#peer = new RpcPeer(this, this, rules, () => new RpcError(RPC.requestCancelled, "the request was cancelled"));
  }

  // ---- the socket -----------------------------------------------------------------------------------------------------

  /** Takes bytes from the socket. The buffer belongs to the caller. */
  read(bytes: Uint8Array): void {
    const isTrusted = this.#isTrusted;
    const part = isTrusted ? bytes : bytes.subarray(0, AUTH_BYTES - this.#authBytes);
    this.#push(part);
    if (isTrusted) return;
    this.#authBytes += part.length;
    if (part.length === bytes.length) return;
    if (this.#isTrusted) this.#push(bytes.subarray(part.length));
    else this.#refuse(RPC.unauthorized, `the client sent ${AUTH_BYTES} bytes without the token`);
  }

  /** Reads ahead by up to `messageBytes`, because a paused socket does not report that it was closed. */
  #push(bytes: Uint8Array): void {
    const all = this.#isEnding ? null : this.#peer.push(bytes.slice());
    if (!all) return;
    this.#aheadBytes += bytes.length;
    if (this.#aheadBytes >= this.#rules.messageBytes) this.#socket.pause();
    void all.then(() => {
      if (this.#aheadBytes >= this.#rules.messageBytes && this.#peer.out.isOpen) this.#socket.resume();
      this.#aheadBytes = 0;
    });
  }

  /** The client sends no more, as at the end of `printf … | nc`: answers its requests, then closes the connection. */
  async inputEnded(): Promise<void> {
    this.#hasInputEnded = true;
    this.#rejectQuestions();
    await this.#peer.push(null);
    await this.#peer.drain();
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#socket.end();
  }

  write(data: string | Uint8Array): Promise<unknown> | null {
    this.#send(typeof data === "string" ? Buffer.from(data) : data);
    return this.#unsent && new Promise<void>((drained) => (this.#drained = drained));
  }

  /** The socket can take more. */
  drained(): void {
    if (this.#unsent) this.#send(this.#unsent);
    if (!this.#unsent) this.#drained?.();
  }

  #send(bytes: Uint8Array): void {
    const sent = this.#socket.write(bytes);
    // Negative: the socket is closed, and `closed` will be called.
    this.#unsent = sent >= 0 && sent < bytes.length ? bytes.subarray(sent) : null;
  }

  /** Closes the connection after its pending output. Resolves when it is closed, within a second in any case. */
  async end(): Promise<void> {
    if (!this.#peer.out.isOpen) return;
    this.#isEnding = true;
    this.#peer.stopReading();
    const timer = this.#host.clock.after(END_MS, () => this.#socket.terminate());
    await this.#peer.room(1);
    this.#socket.end();
    await this.#whenClosed.promise;
    timer.close();
  }

  /** Sends this error and closes the connection. */
  turnAway(error: RpcError): void {
    this.#peer.post(errorJson(null, error));
    void this.end();
  }

  closed(): void {
    this.#isEnding = true;
    this.#authTimer?.close();
    this.#peer.stopReading();
    this.#rejectQuestions();
    this.#peer.stopWriting(clientGone());
    this.#whenClosed.resolve();
  }

  // ---- authentication and invalid messages ----------------------------------------------------------------------------

  received(given: unknown): boolean {
    if (kindOf(given) === "nothing") {
      this.invalid(given); // also for a batch
      return false;
    }
    const message = given as RpcMessage;
    if (message.method === AUTH) this.#authenticate(message);
    else if (this.#isTrusted) return (this.#isKnown = true);
    else this.#refuse(RPC.unauthorized, `the client's first message was not ${AUTH} with the token`, message.id);
    return false;
  }

  invalid(message: unknown): void {
    this.#refuse(RPC.invalidRequest, "the client sent JSON that is not a message", idOf(message));
  }

  skips(): void {
    if (this.#isKnown) return;
    this.#refuse(RPC.invalidRequest, `the client's first message is longer than ${this.#rules.messageBytes} bytes`);
  }

  /** A known client may continue after a message that is too long or cut off. Anything else ends the connection. */
  misread(fault: Fault): void {
    const id = peekId(fault.head, fault.tail);
    const isLong = fault.reason === "too long";
    const code = isLong ? RPC.invalidRequest : RPC.parseError;
    if (this.#isKnown && (isLong || fault.reason === "cut")) {
      this.#peer.post(errorJson(id ?? null, new RpcError(code, `${fault}`)));
      return;
    }
    if (this.#isTrusted) return this.#refuse(code, `the client sent ${fault}`, id);
    // The bytes may contain the token, so the log does not show them.
    const what = HTTP.test(Buffer.from(fault.head).toString("latin1"))
      ? ": an HTTP request, perhaps from a web page"
      : "";
    this.#refuse(code, `the client sent ${fault.kind}${what}`, id);
  }

  /** Checks the token. If the server needs none, any token is accepted. */
  #authenticate({ id, params }: RpcMessage): void {
    const token = (params as { token?: unknown } | null | undefined)?.token;
    if (this.#rules.token !== null && !(typeof token === "string" && isSameToken(token, this.#rules.token))) {
      return this.#refuse(RPC.unauthorized, `the client sent ${AUTH} with a wrong token`, id);
    }
    this.#isTrusted = true;
    this.#isKnown = true;
    this.#authTimer?.close();
    if (id !== undefined) this.#peer.post(responseJson(id, true));
  }

  /**
   * Closes the connection and reports why. A peer that has sent no valid message and no id, such as a browser, gets no answer.
   */
  #refuse(code: number, why: string, id?: RpcId): void {
    if (this.#isEnding) return;
    const from = this.#socket.remoteAddress;
    this.#host.counts.refusals++;
    this.#host.refused(`The connection to ${this.#rules.address}${from ? ` from ${from}` : ""} was closed: ${why}.`);
    if (this.#isKnown || id !== undefined) this.#peer.post(errorJson(id ?? null, new RpcError(code, why)));
    void this.end();
  }

  // ---- requests of the client -----------------------------------------------------------------------------------------

  asked({ id, message, signal }: PeerRequest): null {
    const { sessionId, params } = message;
    if (typeof sessionId === "string") this.#remember(sessionId);
    // Ids and tokens of different clients may be equal, so the worker sees others.
    const protocol = this.#protocol;
    const token = protocol.token === "id" ? id : protocol.tokenOf(params);
    const hasOwn = protocol.tokensOf(params).length > 0;
    const onProgress = token === undefined ? undefined : (value: unknown) => this.#peer.progress(token, value);
    this.#host.forward(
      hasOwn ? { ...message, params: protocol.withToken(params, undefined) } : message,
      { ...this.#route, signal, onProgress },
      (response) => this.#peer.respond(id!, toJson(response, "a response")),
      (error) => this.#peer.respond(id!, errorJson(id!, error)),
    );
    return null;
  }

  notified(message: RpcMessage): null {
    const done = this.#peer.begin();
    this.#host.forward(message, this.#route, done, (error) => {
      this.#peer.post(errorJson(null, error));
      done();
    });
    return null;
  }

  #remember(session: string): void {
    if (this.#sessions.has(session)) return;
    if (this.#sessions.size >= SESSIONS_MAX) this.#sessions.delete(this.#sessions.values().next().value!);
    this.#sessions.add(session);
  }

  // ---- requests and notifications of workers --------------------------------------------------------------------------

  /** Whether this client gets a message of a worker: it has used the message's session, or the worker serves this client. */
  hears(worker: LinkIdentity, { sessionId, method }: RpcMessage): boolean {
    if (typeof sessionId === "string") return this.#sessions.has(sessionId);
    const { served, isStandard } = this.#rules;
    const { key } = this.#route;
    if (key === undefined) return isStandard;
    // Progress goes to the client of its request; another client may use the same token.
    if (served!.options.id !== worker.pool || method === this.#protocol.progress) return false;
    return served!.isOwner(key, worker) || served!.isAsked(key, worker);
  }

  /** Whether a worker is running a request of this client. A queued request does not count. */
  isAsking(worker: LinkIdentity): boolean {
    const { key } = this.#route;
    return key !== undefined && this.#rules.served!.isAsked(key, worker);
  }

  /** Whether this is the client of standard input. */
  get isStandard(): boolean {
    return this.#rules.isStandard;
  }

  /** Whether it can still answer requests of workers. */
  get answers(): boolean {
    return !this.#hasInputEnded && !this.#isEnding;
  }

  /** Sends a request of a worker to the client; resolves to its answer. */
  ask(message: RpcMessage, signal: AbortSignal): Promise<unknown> {
    const question: Question = Promise.withResolvers<unknown>();
    const id = `w${++this.#asked}`;
    this.#peer.ask(id, question, toJson({ ...message, id }, "a request"));
    signal.addEventListener("abort", () => this.#peer.cancel(id, signal.reason) && question.reject(signal.reason));
    return question.promise;
  }

  answered(question: Question, response: RpcMessage): void {
    settle(question, response);
  }

  #rejectQuestions(): void {
    for (const question of this.#peer.takeAll()) question.reject(clientGone());
  }

  /** Sends a notification of a worker. Without room it is dropped and counted. */
  tell(message: RpcMessage): void {
    if (this.#peer.out.queuedBytes < this.#rules.queuedBytes) this.#peer.post(toJson(message, "a notification"));
    else this.#host.counts.lost++;
  }
}

function clientGone(): SlotbusError {
  return new SlotbusError("PROTOCOL", "The client closed its connection.", { mayHaveExecuted: true });
}
