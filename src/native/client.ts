/**
 * The client side of the C library: one handle for each bus, one link for each worker. Its error codes and offsets stay
 * in here.
 */

import { detach } from "../detach.ts";
import { FLOW_STATUS_BYTES, type Flowed, flowed, type FlowStatus } from "./flow.ts";
import { C, errorText, native, type Pointer, view, wordOf } from "./library.ts";
import { type CounterName, COUNTERS, readSnapshot, type Snapshot, STATE_NAMES, type StateName } from "./statistics.ts";
import { constants } from "node:os";
import { SlotbusError } from "../errors.ts";
import { systemRefuses } from "../errors/plain.ts";

/** Sizes of each region of a bus; sizes are in bytes. `tag` identifies this life of the bus. */
export interface Geometry {
  slots: number;
  payloadBytes: number;
  headBytes: number;
  inlineBytes: number;
  tag: number;
}

const KINDS = [null, "answered", "freed", "expired", "abandoned", "corrupt", "stuck", "moved"] as const;
/**
 * `answered`: a response is ready. `freed`: a slot left quarantine. `expired`: a request timed out before a worker
 * claimed it. `abandoned`: a request timed out after a worker claimed it. `corrupt`: the worker broke the protocol.
 * `stuck`: more than half of the worker's slots hang. `moved`: bytes moved in the rings of a slot.
 */
export type EventKind = Exclude<(typeof KINDS)[number], null>;

const LINK = wordOf("sb_event.link");
const LIFE = wordOf("sb_event.life");
const HEAD = wordOf("sb_event.head_bytes");
const OFFSET = wordOf("sb_event.body_offset");
const BODY = wordOf("sb_event.body_bytes");
const STATUS = wordOf("sb_event.status_code");
const TOKEN = wordOf("sb_event.token");

/** A decoded event. */
export class ClientEvent {
  kind: EventKind = "corrupt";
  slot = 0;
  link = 0;
  /** Life of the link; events of an earlier life are ignored. */
  life = 0;
  headBytes = 0;
  bodyOffset = 0;
  /** Length of the body. For `moved`: not 0 when the response is complete. */
  bodyBytes = 0;
  /** Status of the response; 0 for an error of the handler. For `moved`: not 0 when the response starts. */
  status = 0;
  /** Token of the claim, for CANCEL. */
  token = 0;
}

/** Errors of a sandbox that forbids shared memory. */
const REFUSED: readonly number[] = [constants.errno.EPERM, constants.errno.EACCES, constants.errno.ENOSYS];

/** The memory of one bus. */
export class ClientHandle {
  readonly stride: number;
  readonly flow: FlowStatus;
  /** Filled by {@link read}. */
  readonly event = new ClientEvent();
  /** The response that {@link LinkHandle.withdraw} or {@link LinkHandle.wait} found. */
  readonly answer = new ClientEvent();
  /** @internal For {@link LinkHandle}. */
  readonly pointer: Pointer;
  readonly #words: Uint32Array<ArrayBuffer>;

  /** Creates the smallest bus and closes it. @throws {UnsupportedError} if the system refuses shared memory */
  static probe(): void {
    const pointer = native.sb_client_open(1, 65_536, 8_192, 4_096, 0, 0) as Pointer | null;
    if (pointer) return native.sb_client_close(pointer);
    const code = native.sb_error_last();
    if (code === -C.SB_ESYS && REFUSED.includes(native.sb_error_number()))
      throw systemRefuses(`The system refuses shared memory: ${errorText(code)}`);
  }

  /** @throws `RESOURCE` */
  constructor({ slots, payloadBytes, headBytes, inlineBytes, tag }: Geometry) {
    const pointer = native.sb_client_open(slots, payloadBytes, headBytes, inlineBytes, 0, tag) as Pointer | null;
    if (!pointer)
      throw new SlotbusError(
        "RESOURCE",
        `Cannot allocate shared memory for the bus: ${errorText(native.sb_error_last())}.`,
      );
    this.pointer = pointer;
    this.#words = new Uint32Array(
      view(native.sb_client_events(pointer) as number, (C.SB_BATCH + 1) * C.SB_EVENT_WORDS * 4),
    );
    this.flow = new Uint32Array(view(native.sb_client_look(pointer) as number, FLOW_STATUS_BYTES));
    this.stride = native.sb_client_stride(pointer);
  }

  /**
   * Polls all links for events; spins for up to `spinNs` until there is one. Returns their number; {@link read} decodes
   * them.
   */
  poll(spinNs: number): number {
    return native.sb_client_poll(this.pointer, spinNs);
  }

  /**
   * Checks each slot in flight and its deadline. Returns the number of events; when it is `SB_BATCH`, there may be
   * more.
   */
  tick(): number {
    return native.sb_client_tick(this.pointer);
  }

  /** Decodes event number `n` into {@link event}. */
  read(n: number): ClientEvent {
    return this.#decode(n * C.SB_EVENT_WORDS, this.event);
  }

  /** @internal */
  readAnswer(): void {
    this.#decode(C.SB_BATCH * C.SB_EVENT_WORDS, this.answer); // it lies behind the events of a poll
  }

  #decode(base: number, event: ClientEvent): ClientEvent {
    const words = this.#words;
    const first = words[base]!;
    event.kind = KINDS[first & 0xffff] ?? "corrupt";
    event.slot = first >>> 16;
    event.link = words[base + LINK]!;
    event.life = words[base + LIFE]!;
    event.headBytes = words[base + HEAD]!;
    event.bodyOffset = words[base + OFFSET]!;
    event.bodyBytes = words[base + BODY]!;
    event.status = words[base + STATUS]!;
    event.token = words[base + TOKEN]!;
    return event;
  }

  park(): boolean {
    return native.sb_client_park(this.pointer) === 1;
  }

  unpark(): void {
    native.sb_client_unpark(this.pointer);
  }

  /** Holds the bells until {@link ring}. */
  hold(): void {
    native.sb_client_hold(this.pointer);
  }

  ring(): void {
    native.sb_client_ring(this.pointer);
  }

  spread(): void {
    native.sb_client_spread(this.pointer);
  }

  /** Allocates a region and sends it on `fd`. Returns the link, or the error. */
  offer(fd: number, concurrency: number): LinkHandle | { code: number; text: string } {
    const index = native.sb_link_offer(this.pointer, fd, concurrency);
    return index < 0 ? { code: -index, text: errorText(index) } : new LinkHandle(this, index);
  }

  /** Sends the statistics on `fd`, for an observer to map read-only. */
  observe(fd: number): void {
    native.sb_client_observe(this.pointer, fd);
  }

  count(counter: CounterName, by = 1): void {
    native.sb_stats_add(this.pointer, COUNTERS[counter][0], by);
  }

  /** Publishes the current load to observers. `isTicking`: another sample follows within a tick. */
  sample(queued: number, unsettled: number, isTicking: boolean): void {
    native.sb_stats_sample(this.pointer, queued, unsettled, isTicking ? 1 : 0);
  }

  snapshot(): Snapshot {
    const copy = Buffer.alloc(C.SB_STATS_BYTES);
    native.sb_stats_read(this.pointer, copy);
    return readSnapshot(copy, native.sb_now_ms());
  }

  /** Detaches the views; the memory stays for the remaining links. */
  detach(): void {
    detach(this.#words.buffer);
    detach(this.flow.buffer);
  }

  /** Frees the memory. Call after {@link detach} and after all links are dropped. */
  close(): void {
    native.sb_client_close(this.pointer);
  }
}

/** Converts a timeout for C, where 0 stands for no limit. */
function limitOf(timeoutMs: number): number {
  return timeoutMs === Infinity ? 0 : timeoutMs;
}

/** The region of one worker. Slots are identified by their index. */
export class LinkHandle {
  readonly index: number;
  readonly life: number;
  readonly #client: ClientHandle;
  readonly #pointer: Pointer;
  /** Address of the first arena. */
  readonly arenas: number;

  /** @internal */
  constructor(client: ClientHandle, index: number) {
    this.#client = client;
    this.#pointer = client.pointer;
    this.index = index;
    this.life = native.sb_link_life(this.#pointer, index);
    this.arenas = native.sb_link_arenas(this.#pointer, index) as number;
  }

  /** Number of requests that the worker runs for other clients. */
  get elsewhere(): number {
    return native.sb_link_elsewhere(this.#pointer, this.index);
  }

  /** Time that the worker needs for one request, in ms; `Infinity`: unknown. */
  get pace(): number {
    const ns = native.sb_link_pace(this.#pointer, this.index);
    return ns === 0 ? Infinity : ns / 1e6;
  }

  /** Marks the worker as attached: it can get requests, and observers see it. */
  start(pid: number, uid: number): void {
    native.sb_link_start(this.#pointer, this.index);
    native.sb_stats_link(this.#pointer, this.index, pid, uid);
  }

  /** Ends the life of the link: no more requests are published and no more bells sent. Slots can still be withdrawn. */
  stop(): void {
    native.sb_link_stop(this.#pointer, this.index);
  }

  /**
   * Frees the region, for the worker too. `hasClosed`: the worker no longer reads requests. Without `isDetached`, user
   * code may still have a view, so the addresses stay mapped.
   */
  drop(hasClosed: boolean, isDetached: boolean): void {
    const how = (isDetached ? C.SB_DROP_DETACHED : 0) | (hasClosed ? C.SB_DROP_CLOSED : 0);
    native.sb_link_drop(this.#pointer, this.index, how);
  }

  /** Whether the worker sleeps until a bell. */
  get isParked(): boolean {
    return native.sb_link_parked(this.#pointer, this.index) === 1;
  }

  /** Whether the worker's event loop has run since the last call. */
  hasTurned(): boolean {
    return native.sb_link_turned(this.#pointer, this.index) === 1;
  }

  /** Whether the worker has claimed or completed a request since the last call. */
  hasAdvanced(): boolean {
    return native.sb_link_advanced(this.#pointer, this.index) === 1;
  }

  /** Gives unused pages back to the system. */
  trim(): void {
    native.sb_link_trim(this.#pointer, this.index);
  }

  /** Counts bells received on the socket. `false`: too many of them found no work. */
  countBells(bells: number): boolean {
    return native.sb_link_bell(this.#pointer, this.index, bells) === 0;
  }

  /** Returns the state of each slot, and the time since the client last changed it, in ms. */
  slots(): { state: StateName; ageMs: number }[] {
    const words = new Uint32Array(2 * C.SB_SLOTS_MAX);
    const count = native.sb_link_snapshot(this.#pointer, this.index, words);
    return Array.from({ length: Math.max(0, count) }, (_, slot) => ({
      state: STATE_NAMES[words[2 * slot]!] ?? "FREE",
      ageMs: words[2 * slot + 1]!,
    }));
  }

  /**
   * Reserves a free slot until {@link publish} or {@link cancel}; returns a negative number when the worker broke the
   * protocol.
   */
  reserve(): number {
    return native.sb_slot_reserve(this.#pointer, this.index);
  }

  /**
   * Publishes the request; the worker may answer at once. `timeoutMs` is 1 or more, `Infinity` for no limit. Returns
   * whether a bell was sent.
   */
  publish(
    slot: number,
    method: number,
    streams: boolean,
    headBytes: number,
    bodyOffset: number,
    bodyBytes: number,
    timeoutMs: number,
    serial: number,
  ): boolean {
    const what = streams ? method + C.SB_STREAMS : method;
    const { index } = this;
    const ms = limitOf(timeoutMs);
    return native.sb_slot_publish(this.#pointer, index, slot, what, headBytes, bodyOffset, bodyBytes, ms, serial) === 1;
  }

  /** Frees a reserved slot; nothing was published. */
  cancel(slot: number): void {
    native.sb_slot_cancel(this.#pointer, this.index, slot);
  }

  /**
   * Gives up a published request. `free`: the worker had not claimed it. `abandoned`: its handler may run. `answered`:
   * the response is in {@link ClientHandle.answer}.
   */
  withdraw(slot: number): "free" | "abandoned" | "answered" | "corrupt" {
    const state = native.sb_slot_withdraw(this.#pointer, this.index, slot);
    if (state === C.SB_FREE) return "free";
    if (state === C.SB_ABANDONED) return "abandoned";
    if (state !== C.SB_DONE) return "corrupt";
    this.#client.readAnswer();
    return "answered";
  }

  /** Takes back a published request that the worker has not claimed. `false`: it has, and nothing changed. */
  recall(slot: number): boolean {
    return native.sb_slot_recall(this.#pointer, this.index, slot) === C.SB_FREE;
  }

  /**
   * Looks for unclaimed requests. `out[0]` is their number; then follow the slots of those that were published at least `ageMs`
   * ago. Returns the number of these slots.
   */
  waits(ageMs: number, out: Uint32Array): number {
    return native.sb_link_waits(this.#pointer, this.index, ageMs * 1000, out);
  }

  /** Frees an answered slot. `false`: the worker changed the slot after its response. */
  release(slot: number): boolean {
    return native.sb_slot_release(this.#pointer, this.index, slot) === 0;
  }

  /** Time until the deadline of the slot's last request, in ms; negative after it. */
  timeLeft(slot: number): number {
    return native.sb_slot_time_left(this.#pointer, this.index, slot);
  }

  /** Token of the claim of a slot, for CANCEL. */
  token(slot: number): number {
    return native.sb_slot_token(this.#pointer, this.index, slot);
  }

  /** Reports bytes sent and taken in the rings of a slot, and fills {@link ClientHandle.flow}. */
  flow(slot: number, sent: number, taken: number, isEnd: boolean, need: number): Flowed {
    const end = isEnd ? C.SB_FLOW_END : C.SB_FLOW_OPEN;
    return flowed(native.sb_link_flow(this.#pointer, this.index, slot, sent, taken, end, need));
  }

  /**
   * Blocks until the slot is answered ({@link ClientHandle.answer}), the timeout, or the end of the worker's
   * connection.
   */
  wait(slot: number, timeoutMs: number, spinNs: number): "answered" | "expired" | "closed" {
    const result = native.sb_slot_wait(this.#pointer, this.index, slot, limitOf(timeoutMs), spinNs);
    if (result === 0) this.#client.readAnswer();
    return result === 0 ? "answered" : result === -C.SB_ETIMEDOUT ? "expired" : "closed";
  }
}
