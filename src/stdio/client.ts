/** One connection of a server of a stdio bus: who it is, and what it asks with ids of its own. */

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

/** Time that a connection has to send the token, in ms. */
const AUTH_MS = 2_000;
/** Bytes of a connection that are read before it has sent the token; the longest token fits. */
const AUTH_BYTES = 4_096;
/** How an HTTP request begins. */
const HTTP = /^[A-Z]{3,7} \//;
/** Sessions of one client that notifications are told for; the oldest is forgotten. */
const SESSIONS_MAX = 1_024;
/** Time that a client has to take what is written to it before it is closed, in ms. */
const END_MS = 1_000;

/** A pool whose clients speak its protocol. */
export interface ServedPool {
  readonly options: { readonly id: string; readonly protocol: ProtocolName };
  /** Whether the next request with that key goes to that worker. */
  isOwner(key: string, worker: LinkIdentity): boolean;
  /** Whether that worker has a request with that key, also if it takes nothing new. */
  isAsked(key: string, worker: LinkIdentity): boolean;
}

/** What a server asks of all its clients. */
export interface ClientRules extends PeerLimits {
  /** What they ask; `null`: each message says which pool. */
  readonly served: ServedPool | null;
  /** Id of that pool, if the server was given it. */
  readonly pool: string | null;
  /** It is the client of standard input, which has started this process: what names no session is for it. */
  readonly isStandard: boolean;
  /** Of the server, in messages. */
  readonly address: string;
  /** What the first message of a client must bring; `null`: nothing. */
  readonly token: string | null;
}

/** What clients ask of the bus, and what it counts of them. */
export interface ClientHost {
  readonly clock: Clock;
  readonly counts: { connects: number; disconnects: number; refusals: number; lost: number };
  /** Sends a message to a worker, as `StdioBus.forward`. */
  forward(
    message: RpcMessage,
    options: StdioRequestOptions,
    resolve: (response: unknown) => void,
    reject: (error: unknown) => void,
  ): void;
  /** The server closed a connection. */
  refused(why: string): void;
  /**
   * The pool of that id; without one the only pool, if there is one. A reload may have changed it since it was `before`.
   *
   * @throws `UNKNOWN_POOL`, when there was none before.
   */
  servedPool(id: string | null, before: ServedPool | null): ServedPool | null;
}

/** The socket of a client, or what stands for one. */
export interface ClientSocket {
  readonly remoteAddress: string;
  /** Returns how many bytes it took; less than 0: it is closed. `Client.drained` is called when it can take more. */
  write(bytes: Uint8Array): number;
  pause(): void;
  resume(): void;
  /** Closes it behind what is written. */
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
  /** Pool and key of all that it asks, when it speaks a protocol with sessions: the connection is one. */
  readonly #route: { readonly pool?: string; readonly key?: string };
  /** What the socket did not take, and whom to tell when it did. */
  #unsent: Uint8Array | null = null;
  #drained: (() => void) | null = null;
  /** Runs until the token has come. */
  #authTimer: Timer | null = null;
  /** Bytes that were read before that. */
  #authBytes = 0;
  /** It may ask: it has sent the token, or needs none. */
  #isTrusted: boolean;
  /** It has sent a message. */
  #isKnown = false;
  /** Requests of workers that it was sent. */
  #asked = 0;
  /** Bytes that came since all was read. */
  #aheadBytes = 0;
  /** It sends no more. */
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
      const why = `it did not send the token within ${AUTH_MS} ms`;
      this.#authTimer = host.clock.after(AUTH_MS, () => this.#refuse(RPC.unauthorized, why));
    }
    this.#peer = new RpcPeer(this, this, rules, () => new RpcError(RPC.requestCancelled, "the request was cancelled"));
  }

  // ---- the socket -----------------------------------------------------------------------------------------------------

  /** Bytes came, which are not its own. */
  read(bytes: Uint8Array): void {
    const isTrusted = this.#isTrusted;
    const part = isTrusted ? bytes : bytes.subarray(0, AUTH_BYTES - this.#authBytes);
    this.#push(part);
    if (isTrusted) return;
    this.#authBytes += part.length;
    if (part.length === bytes.length) return;
    if (this.#isTrusted) this.#push(bytes.subarray(part.length));
    else this.#refuse(RPC.unauthorized, `it sent ${AUTH_BYTES} bytes without the token`);
  }

  /** A socket that is paused does not tell of its end, so some is read ahead. */
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

  /** It sends no more, as at the end of `printf … | nc`: what it asked for is answered, then it is closed. */
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
    // Less than 0: it is closed, which is told besides.
    this.#unsent = sent >= 0 && sent < bytes.length ? bytes.subarray(sent) : null;
  }

  /** Closes it behind what waits for it; resolves when it is closed, after a second in any case. */
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

  /** Answers nothing else, and closes it. */
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

  // ---- who may ask ----------------------------------------------------------------------------------------------------

  received(given: unknown): boolean {
    if (kindOf(given) === "nothing") {
      this.invalid(given); // a batch too
      return false;
    }
    const message = given as RpcMessage;
    if (message.method === AUTH) this.#authenticate(message);
    else if (this.#isTrusted) return (this.#isKnown = true);
    else this.#refuse(RPC.unauthorized, `its first message was not ${AUTH} with the token`, message.id);
    return false;
  }

  invalid(message: unknown): void {
    this.#refuse(RPC.invalidRequest, "it sent JSON that is not a message", idOf(message));
  }

  skips(): void {
    if (this.#isKnown) return;
    this.#refuse(RPC.invalidRequest, `its first message is longer than ${this.#rules.messageBytes} bytes`);
  }

  /** Behind a message that is too long the next one is found, and at the end nothing comes. All else ends the connection. */
  misread(fault: Fault): void {
    const id = peekId(fault.head, fault.tail);
    const isLong = fault.reason === "too long";
    const code = isLong ? RPC.invalidRequest : RPC.parseError;
    if (this.#isKnown && (isLong || fault.reason === "cut")) {
      this.#peer.post(errorJson(id ?? null, new RpcError(code, `${fault}`)));
      return;
    }
    if (this.#isTrusted) return this.#refuse(code, `it sent ${fault}`, id);
    // The bytes may be the token, so the log does not show them.
    const what = HTTP.test(Buffer.from(fault.head).toString("latin1")) ? ": an HTTP request, as of a web page" : "";
    this.#refuse(code, `it sent ${fault.bytes} bytes that are ${fault.reason}${what}`, id);
  }

  /** Checks the token. Where none is asked for, any will do. */
  #authenticate({ id, params }: RpcMessage): void {
    const token = (params as { token?: unknown } | null | undefined)?.token;
    if (this.#rules.token !== null && !(typeof token === "string" && isSameToken(token, this.#rules.token))) {
      return this.#refuse(RPC.unauthorized, `its ${AUTH} has a wrong token`, id);
    }
    this.#isTrusted = true;
    this.#isKnown = true;
    this.#authTimer?.close();
    if (id !== undefined) this.#peer.post(responseJson(id, true));
  }

  /** Closes the connection and logs why. A peer that may not speak JSON-RPC, as a browser, gets no answer. */
  #refuse(code: number, why: string, id?: RpcId): void {
    if (this.#isEnding) return;
    const from = this.#socket.remoteAddress;
    this.#host.counts.refusals++;
    this.#host.refused(`a connection to ${this.#rules.address}${from ? ` from ${from}` : ""} was closed: ${why}.`);
    if (this.#isKnown || id !== undefined) this.#peer.post(errorJson(id ?? null, new RpcError(code, why)));
    void this.end();
  }

  // ---- what it asks ---------------------------------------------------------------------------------------------------

  asked({ id, message, signal }: PeerRequest): null {
    const { sessionId, params } = message;
    if (typeof sessionId === "string") this.#remember(sessionId);
    // Clients choose equal ids and equal tokens: on its way to the worker the request has others.
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

  // ---- what workers ask and tell --------------------------------------------------------------------------------------

  /** Whether a message of a worker is for it: it has named the session, or the worker is the one that it asks. */
  hears(worker: LinkIdentity, { sessionId, method }: RpcMessage): boolean {
    if (typeof sessionId === "string") return this.#sessions.has(sessionId);
    const { served, isStandard } = this.#rules;
    const { key } = this.#route;
    if (key === undefined) return isStandard;
    // Progress has a token that another client may have too.
    if (served!.options.id !== worker.pool || method === this.#protocol.progress) return false;
    return served!.isOwner(key, worker) || served!.isAsked(key, worker);
  }

  /** Whether a worker has a request of it; one that waits for the worker does not count. */
  isAsking(worker: LinkIdentity): boolean {
    const { key } = this.#route;
    return key !== undefined && this.#rules.served!.isAsked(key, worker);
  }

  /** Whether it is the client of standard input. */
  get isStandard(): boolean {
    return this.#rules.isStandard;
  }

  /** Whether it can answer a worker. */
  get answers(): boolean {
    return !this.#hasInputEnded && !this.#isEnding;
  }

  /** A worker's request, which it answers. */
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

  /** Of a worker; one that finds no room is lost and counted. */
  tell(message: RpcMessage): void {
    if (this.#peer.out.queuedBytes < this.#rules.queuedBytes) this.#peer.post(toJson(message, "a notification"));
    else this.#host.counts.lost++;
  }
}

function clientGone(): SlotbusError {
  return new SlotbusError("PROTOCOL", "the client has closed its connection.", { mayHaveExecuted: true });
}
