/** A worker made from the library's own functions, without checks: it may write anything into its region. */

import { Arena, encodeHead } from "../src/bus/codec.ts";
import type { SlotBus } from "../src/index.ts";
import { C, cString, FIELDS, native, type Pointer, view } from "../src/native/library.ts";
import type { Workspace } from "./support.ts";

const SLOT_BYTES = FIELDS["sb_slot.worker"][0] + FIELDS["sb_slot.worker"][1];

export class RawWorker {
  readonly fd: number;
  /** Its claim. */
  slot = -1;
  token = 0;
  readonly #worker: Pointer;
  readonly #sessions: Pointer;
  readonly #request: Uint32Array;
  readonly #region: DataView;
  readonly #arenas: number;
  readonly #stride: number;

  /** Attaches; the client's event loop must run meanwhile. */
  static async open(directory: string, name: string, concurrency = 4): Promise<RawWorker> {
    const dir = native.sb_dir_open(cString(directory), 0, 0);
    const worker = native.sb_worker_open(dir, cString(name), concurrency) as Pointer;
    const peer = new Uint32Array(2);
    while (native.sb_worker_step(worker, peer) === -C.SB_EAGAIN) await Bun.sleep(1);
    native.sb_fd_close(dir);
    return new RawWorker(worker);
  }

  /** A bus, and a raw worker attached to it. */
  static async withBus(space: Workspace): Promise<{ bus: SlotBus; worker: RawWorker }> {
    const bus = await space.bus();
    const worker = await RawWorker.open(space.directory, space.name);
    await bus.ready();
    return { bus, worker };
  }

  private constructor(worker: Pointer) {
    this.#worker = worker;
    this.#sessions = native.sb_sessions_open() as Pointer;
    native.sb_sessions_add(this.#sessions, worker);
    this.fd = native.sb_worker_fd(worker);
    this.#request = new Uint32Array(view(native.sb_worker_request(worker) as number, 40));
    const header = new DataView(view(native.sb_worker_header(worker) as number, 128));
    const fieldOf = (name: "sb_header.stride" | "sb_header.arenas_offset"): number =>
      Number(header.getBigUint64(FIELDS[name][0], true));
    this.#stride = fieldOf("sb_header.stride");
    this.#arenas = native.sb_worker_arenas(worker) as number;
    const bytes = fieldOf("sb_header.arenas_offset");
    this.#region = new DataView(view(this.#arenas - bytes, bytes)); // from page 0 to the arenas
  }

  /** Writes the head of a response without headers into the arena; returns its length. */
  writeHead(): number {
    return encodeHead(new Arena(this.arena.buffer as ArrayBuffer), ["text/plain"], 0, 1, 1_024, "response");
  }

  /** Claims one request. */
  async take(): Promise<void> {
    while (!this.tryTake()) await Bun.sleep(1);
  }

  /** Claims a published request. */
  tryTake(): boolean {
    if (native.sb_sessions_take(this.#sessions, 0, 1) !== C.SB_SESSION_TAKEN) return false;
    this.slot = this.#request[0]!;
    this.token = this.#request[1]!;
    return true;
  }

  /** Answers as a worker should. */
  complete(head: number, offset: number, body: number, status: number): void {
    native.sb_slot_complete(this.#worker, this.slot, this.token, head, offset, body, status);
  }

  /** Writes a response line and DONE, without a hint. */
  forge(fields: { head?: number; offset?: number; body?: number; status?: number }): void {
    const line = this.#line + FIELDS["sb_slot.response"][0];
    const put = (name: keyof typeof FIELDS, value: number): void =>
      this.#region.setUint32(line + FIELDS[name][0], value, true);
    put("sb_response_line.head_bytes", fields.head ?? 0);
    put("sb_response_line.body_offset", fields.offset ?? 0);
    put("sb_response_line.body_bytes", fields.body ?? 0);
    put("sb_response_line.status_code", fields.status ?? 200);
    this.setState(C.SB_DONE);
  }

  /** Writes its line of the counts of streams. */
  flow(fields: { sent?: number; taken?: number; ended?: number; error?: number }): void {
    const line = this.#line + FIELDS["sb_slot.worker"][0];
    const at = (name: keyof typeof FIELDS): number => line + FIELDS[name][0];
    this.#region.setBigUint64(at("sb_flow.sent"), BigInt(fields.sent ?? 0), true);
    this.#region.setBigUint64(at("sb_flow.taken"), BigInt(fields.taken ?? 0), true);
    this.#region.setUint32(at("sb_flow.error_bytes"), fields.error ?? 0, true);
    this.#region.setUint32(at("sb_flow.ended"), fields.ended ?? C.SB_FLOW_OPEN, true);
  }

  /** Begins a streamed response as a worker should. */
  begin(head: number): void {
    native.sb_slot_begin(this.#worker, this.slot, this.token, head, 200);
  }

  /** Ends a streamed response as a worker should. */
  finish(): void {
    native.sb_slot_finish(this.#worker, this.slot, this.token, 0);
  }

  /** Sets the hint of every slot and rings. */
  hint(): void {
    const done = FIELDS["sb_region.done"][0];
    for (let i = 0; i < 4; i++) this.#region.setBigUint64(done + 8 * i, 0xffff_ffff_ffff_ffffn, true);
    this.send(C.SB_MSG_BELL, 0);
  }

  /** The status word of its claim. */
  get word(): bigint {
    return this.#region.getBigUint64(this.#line, true);
  }

  set word(value: bigint) {
    this.#region.setBigUint64(this.#line, value, true);
  }

  setState(state: number): void {
    this.word = (this.word & ~15n) | BigInt(state);
  }

  /** The first page of the response's arena. */
  get arena(): Uint8Array {
    return new Uint8Array(view(this.#arenas + (2 * this.slot + 1) * this.#stride, C.SB_PAGE));
  }

  send(type: number, bytes: number): number {
    return native.sb_control_send(this.fd, type, new Uint8Array(8), bytes);
  }

  close(): void {
    native.sb_sessions_close(this.#sessions);
    native.sb_worker_close(this.#worker, 1);
  }

  get #line(): number {
    return FIELDS["sb_region.pad5"][0] + FIELDS["sb_region.pad5"][1] + this.slot * SLOT_BYTES;
  }
}
