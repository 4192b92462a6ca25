/** A worker's attachment to one life of one hub: the region, the claims that run, their answers. */

import type { Socket } from "bun";
import {
  BodyReleasedError,
  InvalidConfigError,
  NoAnswerError,
  PayloadTooLargeError,
  ProtocolError,
  SlotbusError,
} from "../errors.ts";
import { C, detach, FIELDS, native, type Pointer, view } from "../native/library.ts";
import {
  Arena,
  type BodyLike,
  bodyOffset,
  encodeHead,
  HeadReader,
  HeadWriter,
  METHODS,
  REQUEST_STRINGS,
  writeBody,
} from "./codec.ts";
import { MessageReader, MessageWriter } from "./control.ts";
import { flattenHeaders } from "./headers.ts";
import { RESPONSE_STRINGS } from "./response.ts";
import {
  type Answer,
  type Answerable,
  BorrowedBody,
  callerGone,
  Claim,
  type Delivery,
  type PlainAnswer,
  type RequestOwner,
  WorkerRequest,
} from "./request.ts";
import { Channel, endSource, isStreamSource, Receiver, Sender, type SendEnd, type StreamSource } from "./stream.ts";

const nothing = new Uint8Array(0);
const TEXT = "text/plain;charset=utf-8";
const JSON_TYPE = "application/json";
/** Bytes of an error head besides message and stack: table, code, name, and the marks of what was cut. */
const ERROR_OVERHEAD = 512;
const ANSWER_KEYS = new Set(["status", "headers", "contentType", "body", "json"]);

function field(name: keyof typeof FIELDS): number {
  return FIELDS[name][0];
}

const WORD = {
  slot: field("sb_request.slot") / 4,
  token: field("sb_request.token") / 4,
  head: field("sb_request.head_bytes") / 4,
  offset: field("sb_request.body_offset") / 4,
  body: field("sb_request.body_bytes") / 4,
  timeout: field("sb_request.timeout_ms") / 4,
  method: field("sb_request.method") / 4,
  serial: field("sb_request.serial") / 4,
} as const;

class SessionChannel extends Channel {
  readonly #session: Session;
  readonly #claim: Claim;

  constructor(session: Session, claim: Claim, stride: number, incoming: Arena, outgoing: Arena, look: Uint32Array) {
    super(session.headLimit, stride, incoming, outgoing, look);
    this.#session = session;
    this.#claim = claim;
  }

  move(sent: number, taken: number, end: number, need: number): boolean {
    const session = this.#session;
    if (!session.open) return false;
    const { slot, token } = this.#claim;
    const result = native.sb_worker_flow(session.native, slot, token, sent, taken, end, need);
    if (result < 0) {
      if (result === -C.SB_ECORRUPT) session.onCorrupt(slot);
      else session.onGivenUp(this.#claim);
      return false;
    }
    if (sent > 0 || taken > 0) session.onAnswer(sent + taken);
    return true;
  }
}

export class Session implements RequestOwner {
  readonly native: Pointer;
  readonly reader = new MessageReader();
  readonly writer: MessageWriter;
  readonly headLimit: number;
  readonly payloadLimit: number;
  /** Slots of the region. */
  readonly slots: number;
  open = true;
  /** It is being closed: what its streams still hold is read. */
  #closing = false;
  socket: Socket<undefined> | null = null;
  /** By slot: claims without an answer. */
  readonly running: (Claim | null)[] = [];
  runningCount = 0;
  /** Views that could not be taken back: they may show later requests, and the region stays mapped. */
  heldViews = 0;
  /** Claims whose body or answer streams. */
  streams = 0;
  /** Told of the size of each answer. */
  readonly onAnswer: (bytes: number) => void;
  /** Told when the hub wrote counts that cannot be into the rings of a slot. */
  onCorrupt: (slot: number) => void = () => {};
  /** Told of errors after the handler has ended: a source that failed in a begun answer, a deferred answer that was dropped. */
  onLateError: (request: { id: string; path: string }, error: unknown) => void = () => {};
  readonly #look: Uint32Array<ArrayBuffer>;
  readonly #ringBytes: number;
  #full = false;
  readonly #inlineSize: number;
  readonly #stride: number;
  readonly #arenas: number;
  readonly #tag: string;
  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #headReader = new HeadReader(REQUEST_STRINGS);
  readonly #headWriter = new HeadWriter();
  readonly #requests: (Arena | undefined)[] = [];
  readonly #responses: (Arena | undefined)[] = [];

  /** `worker` has just attached; `onAnswer` is called with the size of each answer. */
  constructor(worker: Pointer, onAnswer: (bytes: number) => void) {
    this.native = worker;
    this.onAnswer = onAnswer;
    this.writer = new MessageWriter(native.sb_worker_fd(worker));
    const bytes = 128;
    const header = new DataView(view(native.sb_worker_header(worker) as number, bytes).slice(0));
    this.slots = header.getUint32(field("sb_header.slots"), true);
    this.headLimit = header.getUint32(field("sb_header.head_limit"), true);
    this.payloadLimit = header.getUint32(field("sb_header.payload_limit"), true);
    this.#inlineSize = header.getUint32(field("sb_header.inline_bytes"), true);
    this.#tag = header.getUint32(field("sb_header.bus_tag"), true).toString(36);
    this.#stride = Number(header.getBigUint64(field("sb_header.stride"), true));
    this.#arenas = native.sb_worker_arenas(worker) as number;
    this.#words = new Uint32Array(view(native.sb_worker_request(worker) as number, 40));
    this.#look = new Uint32Array(view(native.sb_worker_look(worker) as number, 32));
    this.#ringBytes = Math.min(C.SB_RING_MAX, this.#stride - this.headLimit);
  }

  requestId(serial: number): string {
    return `${this.#tag}-${serial.toString(36)}`;
  }

  /**
   * Claims one request if `canTake`: `null` when there is none, `"moved"` when streams of a running one moved. Throws
   * {@link SlotbusError} when the hub broke the rules.
   */
  take(spinNs: number, now: number, canTake = true): WorkerRequest | "moved" | null {
    if (canTake === this.#full) {
      this.#full = !canTake;
      native.sb_worker_full(this.native, canTake ? 0 : 1);
    }
    const result = native.sb_slot_take(this.native, spinNs);
    if (result === 0) return null;
    const words = this.#words;
    if (result === 2) {
      const claim = this.running[words[WORD.slot]!];
      claim?.sender?.moved();
      claim?.receiver?.moved();
      return "moved";
    }
    const streams = (words[WORD.method]! & C.SB_STREAMS) !== 0;
    const method = words[WORD.method]! & ~C.SB_STREAMS;
    if (result < 0 || method >= METHODS.length) {
      throw new ProtocolError("the hub published a request with a length or method out of range.");
    }
    const slot = words[WORD.slot]!;
    const headBytes = words[WORD.head]!;
    const offset = words[WORD.offset]!;
    const bodyBytes = words[WORD.body]!;
    const arena = this.#requestArena(slot);
    const copies = bodyBytes <= this.#inlineSize;
    const head = this.#headReader.read(arena, headBytes);
    const own = bodyBytes === 0 ? nothing : copies ? arena.bytes.slice(offset, offset + bodyBytes) : null;
    const claim = new Claim(slot, words[WORD.token]!, offset, bodyBytes, own);
    if (streams) claim.receiver = new Receiver(this.#openChannel(claim), () => {});
    const request = new WorkerRequest(
      this,
      claim,
      method,
      words[WORD.serial]! + words[WORD.serial + 1]! * 0x1_0000_0000,
      words[WORD.timeout]!,
      now,
      head,
    );
    this.running[slot] = claim;
    this.runningCount++;
    return request;
  }

  /** Whether the caller has given up, by the slot's own word. */
  isGivenUp(claim: Claim): boolean {
    return !this.open || native.sb_slot_aborted(this.native, claim.slot, claim.token) === 1;
  }

  /** A stream found that its caller is gone; so the signal has aborted when its generator is ended. */
  onGivenUp(claim: Claim): void {
    if (!this.#closing && this.running[claim.slot] === claim) claim.abort(callerGone());
  }

  // ---- bodies of requests -------------------------------------------------------------------------------------

  /** Whether the slot is still the claim's, so that its body can be read. */
  #holds(claim: Claim): boolean {
    return this.open && this.running[claim.slot] === claim;
  }

  /** Copies the body, for user code. Call if the claim has no copy. */
  copyBody(claim: Claim, request: WorkerRequest): Uint8Array {
    if (!this.#holds(claim)) throw new BodyReleasedError(`the body of request ${request.id}`);
    return (claim.own = this.#peek(claim).slice());
  }

  borrowBody(claim: Claim, request: WorkerRequest): BorrowedBody {
    if (!this.#holds(claim)) throw new BodyReleasedError(`the body of request ${request.id}`);
    claim.isBodyLent = true;
    const memory = view(this.#address(claim.slot, 0) + claim.bodyOffset, claim.bodyBytes);
    const borrowed = new BorrowedBody(new Uint8Array(memory), this.#onHeld);
    (claim.borrows ??= []).push(borrowed);
    return borrowed;
  }

  /** The copy, if there is one; else the bytes where they lie, which nobody may keep. */
  peekBody(claim: Claim, request: WorkerRequest): Uint8Array {
    claim.isBodyLent = true;
    if (claim.own) return claim.own;
    if (!this.#holds(claim)) throw new BodyReleasedError(`the body of request ${request.id}`);
    return this.#peek(claim);
  }

  #peek({ slot, bodyOffset, bodyBytes }: Claim): Uint8Array {
    return this.#requestArena(slot).bytes.subarray(bodyOffset, bodyOffset + bodyBytes);
  }

  /** The claim loses its slot: what user code may still ask for is copied. What was lent and not asked for is gone for it. */
  #keepBody(claim: Claim): void {
    if (claim.isBodyLent) {
      if (!claim.isBodyAsked) claim.own = null;
    } else if (!claim.own) {
      try {
        claim.own = this.#peek(claim).slice();
      } catch {
        claim.isBodyLent = true; // no memory is left for it: who asks for it is told
      }
    }
  }

  reserve(claim: Claim, bytes: number): Uint8Array {
    if (!(bytes >= 0 && bytes <= this.payloadLimit)) {
      throw new PayloadTooLargeError("response", bytes, this.payloadLimit, true);
    }
    if (claim.answered || !this.open) return new Uint8Array(0);
    claim.reserved ??= new Uint8Array(view(this.#address(claim.slot, 1) + this.headLimit, bytes));
    return claim.reserved;
  }

  /** Answers with a value; what cannot be sent is answered as an error, and thrown. A source that is not sent is ended. */
  respond(request: WorkerRequest, answer: Exclude<Answerable, Response>): Delivery {
    const { claim } = request;
    const source = sourceOf(answer);
    if (claim.answered || !this.open) {
      endSource(source);
      return claim.answered ? "duplicate" : "closed";
    }
    try {
      if (!source) return this.#write(claim, answer as PlainAnswer);
      return this.#stream(request, source === answer ? {} : checkAnswer(answer as Answer), source);
    } catch (error) {
      endSource(source);
      this.fail(claim, error);
      throw error;
    }
  }

  /** Answers with an error. The code always arrives; name, message and stack are cut to fit. */
  fail(claim: Claim, error: unknown): Delivery {
    if (claim.answered) return "duplicate";
    if (!this.open) return "closed";
    const head = this.#writeError(this.#responseArena(claim.slot), error, Math.min(this.headLimit, this.#inlineSize));
    return this.#complete(claim, head, bodyOffset(head), 0, 0);
  }

  /** The caller of a deferred answer that is dropped gets an error. Nothing here leads to the request. */
  watchDeferred(request: WorkerRequest): void {
    dropped.register(request, { session: this, claim: request.claim, id: request.id, path: request.path });
  }

  /** Nobody can answer any more. */
  dropDeferred({ claim, id, path }: Deferral): void {
    if (claim.answered || !this.open) return;
    claim.isBodyLent = true; // nobody is left to ask for it
    const error = new NoAnswerError(path, "dropped");
    this.fail(claim, error);
    this.onLateError({ id, path }, error);
  }

  #writeError(arena: Arena, error: unknown, limit: number): number {
    const room = Math.floor((limit - ERROR_OVERHEAD) / 3 / 2); // UTF-8 takes 3 bytes a unit at most
    const isError = error instanceof Error;
    const code = error instanceof SlotbusError ? read(() => error.code, "HANDLER_FAILED") : "HANDLER_FAILED";
    const message = isError ? read(() => error.message, "") : `the handler threw ${describe(error)}`;
    const texts = [
      cut(code, 60),
      cut(isError ? read(() => error.name, "Error") : "Error", 60),
      cut(message, room),
      cut(isError ? read(() => error.stack, "") : "", room),
    ];
    return encodeHead(arena, texts, 0, texts.length, limit, "response", true);
  }

  #openChannel(claim: Claim): Channel {
    if (claim.channel) return claim.channel;
    this.streams++;
    const [incoming, outgoing] = [this.#requestArena(claim.slot), this.#responseArena(claim.slot)];
    return (claim.channel = new SessionChannel(this, claim, this.#stride, incoming, outgoing, this.#look));
  }

  /** Answers with a head now, and with a body as it comes. */
  #stream(request: WorkerRequest, { status = 200, contentType = "", headers }: Answer, source: StreamSource): Delivery {
    const { claim } = request;
    strings.length = 0;
    strings.push(contentType);
    if (headers) flattenHeaders(headers, strings);
    const arena = this.#responseArena(claim.slot);
    const head = this.#headWriter.write(arena, strings, 0, RESPONSE_STRINGS, this.headLimit, "response");
    if (!claim.own) this.#keepBody(claim); // now: a caller that has given up has the slot back after the next line
    claim.answered = true;
    const begun = native.sb_slot_begin(this.native, claim.slot, claim.token, head, status);
    this.onAnswer(head);
    if (begun < 0) {
      this.#settle(claim);
      this.onAnswer(0);
      endSource(source);
      return "late";
    }
    const sender = new Sender(this.#openChannel(claim));
    claim.sender = sender;
    sender.send(source, (end) => void this.#finish(request, sender, end));
    return "sent";
  }

  /** The source of a streamed answer has come to its end. */
  async #finish(request: WorkerRequest, sender: Sender, end: SendEnd): Promise<void> {
    const { claim } = request;
    let errorBytes = 0;
    if (end.how === "failed" && this.open) {
      const limit = Math.min(this.headLimit, this.#inlineSize, Math.floor(this.#ringBytes / 2));
      const scratch = new Arena(new ArrayBuffer(limit));
      const length = this.#writeError(scratch, end.error, limit);
      if (await sender.reserve(length)) {
        sender.place(scratch.bytes.subarray(0, length));
        errorBytes = length;
      }
      this.onLateError(request, end.error);
    }
    if (!this.open) return;
    this.#settle(claim);
    native.sb_slot_finish(this.native, claim.slot, claim.token, errorBytes);
    this.onAnswer(0);
  }

  /** The claim ends, and then its slot is the hub's. */
  #settle(claim: Claim): void {
    if (this.running[claim.slot] !== claim) return;
    this.running[claim.slot] = null;
    this.runningCount--;
    if (claim.channel) this.streams--;
    if (claim.receiver?.isOpen) claim.receiver.fail(new DOMException("the request was answered", "AbortError"));
    if (claim.isBodyLent || !claim.own) this.#keepBody(claim);
    if (claim.borrows !== null || claim.reserved !== null) claim.detachViews(this.#onHeld);
  }

  #write(claim: Claim, answer: PlainAnswer): Delivery {
    const arena = this.#responseArena(claim.slot);
    let status = 200;
    let body: BodyLike = null;
    strings.length = 0;
    strings.push("");
    if (typeof answer === "string") {
      strings[0] = TEXT;
      body = answer;
    } else if (answer === null) {
      status = 204;
    } else if (answer instanceof Uint8Array || answer instanceof ArrayBuffer || ArrayBuffer.isView(answer)) {
      body = answer as BodyLike;
    } else {
      const given = checkAnswer(answer as Answer) as Exclude<PlainAnswer, BodyLike>;
      status = given.status ?? 200;
      body = given.json === undefined ? given.body : JSON.stringify(given.json);
      const type = given.json === undefined ? (typeof body === "string" ? TEXT : "") : JSON_TYPE;
      strings[0] = given.contentType ?? type;
      if (given.headers) flattenHeaders(given.headers, strings);
    }
    const head = this.#headWriter.write(arena, strings, 0, RESPONSE_STRINGS, this.headLimit, "response");
    if (body instanceof Uint8Array && claim.reserved && body.buffer === claim.reserved.buffer) {
      return this.#complete(claim, head, this.headLimit + body.byteOffset, body.length, status);
    }
    const offset = bodyOffset(head);
    return this.#complete(claim, head, offset, writeBody(arena, offset, body, this.payloadLimit, "response"), status);
  }

  #complete(claim: Claim, head: number, offset: number, bytes: number, status: number): Delivery {
    claim.answered = true;
    this.#settle(claim);
    const { slot, token } = claim;
    const result = native.sb_slot_complete(this.native, slot, token, head, offset, bytes, status);
    this.onAnswer(offset + bytes);
    return result === 0 ? "sent" : "late";
  }

  readonly #onHeld = (): void => {
    if (this.heldViews++ > 0 || !this.open) return;
    process.emitWarning(
      "a borrowed request body or a reserved response is still held after its end; it may show a later request.",
      "SlotbusWarning",
    );
  };

  /** Ends the attachment. The region is unmapped, unless somebody holds a view: then only its pages are freed. */
  close(reason: unknown): void {
    if (!this.open) return;
    this.#closing = true;
    for (const claim of this.running) claim?.receiver?.end(() => ({ error: reason }));
    for (const claim of this.running) if (claim) this.#keepBody(claim);
    this.open = false;
    let detached = true;
    for (const claim of this.running) {
      if (!claim) continue;
      claim.abort(reason);
      claim.detachViews(this.#onHeld);
    }
    for (const arena of [...this.#requests, ...this.#responses]) {
      if (arena && !detach(arena.buffer)) detached = false;
    }
    detach(this.#words.buffer);
    detach(this.#look.buffer);
    this.writer.close();
    native.sb_worker_close(this.native, detached && this.heldViews === 0 ? 1 : 0);
  }

  #requestArena(slot: number): Arena {
    return (this.#requests[slot] ??= new Arena(view(this.#address(slot, 0), this.#stride)));
  }

  #responseArena(slot: number): Arena {
    return (this.#responses[slot] ??= new Arena(view(this.#address(slot, 1), this.#stride)));
  }

  #address(slot: number, half: 0 | 1): number {
    return this.#arenas + (2 * slot + half) * this.#stride;
  }
}

/** A deferred answer, without what would keep its request alive. */
interface Deferral {
  session: Session;
  claim: Claim;
  id: string;
  path: string;
}

const dropped = new FinalizationRegistry<Deferral>((deferral) => deferral.session.dropDeferred(deferral));

// Written and read within one synchronous call; one array for all answers.
const strings: string[] = [];

/** The stream that is an answer, or its body, if one is. */
function sourceOf(answer: unknown): StreamSource | null {
  if (isStreamSource(answer)) return answer;
  if (typeof answer !== "object" || answer === null || !("body" in answer)) return null;
  return isStreamSource(answer.body) ? answer.body : null;
}

function checkAnswer(answer: Answer | undefined): Answer {
  if (!isPlainAnswer(answer)) {
    throw new InvalidConfigError(`a handler cannot answer with ${describe(answer)}.`, {
      hint: "Return text, bytes, null, a Response, or { status, headers, contentType, body | json }.",
    });
  }
  const { status = 200 } = answer;
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new InvalidConfigError(`a handler answered with status ${String(status)}; it must be 200 to 599.`);
  }
  return answer;
}

function isPlainAnswer(answer: unknown): answer is Answer {
  if (typeof answer !== "object" || answer === null) return false;
  const prototype = Object.getPrototypeOf(answer);
  if (prototype !== Object.prototype && prototype !== null) return false;
  for (const key in answer) if (!ANSWER_KEYS.has(key)) return false;
  return true;
}

/** A text that a stranger's error gives; it may give anything, or throw. */
function read(get: () => unknown, otherwise: string): string {
  try {
    const text = get();
    return typeof text === "string" ? text : String(text ?? otherwise);
  } catch {
    return otherwise;
  }
}

/** What a value is, in a few words. */
function describe(value: unknown): string {
  if (typeof value === "object" && value !== null) {
    const keys = read(() => Object.keys(value).slice(0, 5).join(", "), "");
    return `an object of ${read(() => value.constructor.name, "no class")} with keys {${keys}}`;
  }
  if (typeof value === "function") return "a function";
  return `the ${typeof value} ${String(value).slice(0, 80)}`;
}

function cut(text: string, units: number): string {
  return text.length <= units ? text : `${text.slice(0, units)}… [cut, ${text.length} characters]`;
}
