/** The worker side of the C library: one handle for each attachment. Its error codes and offsets stay in here. */

import { backoff } from "../backoff.ts";
import { type Clock, sleep } from "../clock.ts";
import { detach } from "../detach.ts";
import { BusNotFoundError, SlotbusError, VersionMismatchError } from "../errors.ts";
import { openDirectory, usersOf } from "./directory.ts";
import { FLOW_STATUS_BYTES, type Flowed, flowed, type FlowStatus } from "./flow.ts";
import { C, cString, errorText, FIELDS, native, type Pointer, view, wordOf } from "./library.ts";

/** Timeout of a worker's handshake, in ms. */
const HANDSHAKE_MS = 2_000;
const HEADER_BYTES = 128;
const CLAIM_BYTES = 40;

const SLOT = wordOf("sb_request.slot");
const CLAIM = wordOf("sb_request.token");
const HEAD = wordOf("sb_request.head_bytes");
const OFFSET = wordOf("sb_request.body_offset");
const BODY = wordOf("sb_request.body_bytes");
const TIMEOUT = wordOf("sb_request.timeout_ms");
const METHOD = wordOf("sb_request.method");
const SERIAL = wordOf("sb_request.serial");

/**
 * Directory and name of a bus, or `NAME@K` for client number K of a shared bus. `shared`: the directory may belong to another
 * user.
 */
export interface Address {
  name: string;
  directory: string;
  shared: boolean;
}

/** A handshake in steps: yields the time to wait before the next step, in ms; returns a handle or an error. */
export type Handshake<Handle> = Generator<number, Handle | SlotbusError>;

/** Runs a handshake without blocking the thread. */
export async function shakeHands<Result>(steps: Generator<number, Result>, clock: Clock): Promise<Result> {
  let step = steps.next();
  for (; !step.done; step = steps.next()) await sleep(clock, step.value);
  return step.value;
}

/** A decoded request that a worker claimed. */
export class TakenRequest {
  slot = 0;
  token = 0;
  headBytes = 0;
  bodyOffset = 0;
  bodyBytes = 0;
  /** Time left for the request, in ms; 0: no limit. */
  timeoutMs = 0;
  method = 0;
  streams = false;
  serial = 0;
}

/** An attached worker. */
export class WorkerHandle {
  readonly headLimit: number;
  readonly payloadLimit: number;
  readonly inlineSize: number;
  readonly stride: number;
  /** Identifies this life of the bus. */
  readonly tag: string;
  readonly flow: FlowStatus;
  /** Filled by {@link read}. */
  readonly taken = new TakenRequest();
  /** @internal For `Sessions`. */
  readonly pointer: Pointer;
  /** Address of the first arena. */
  readonly arenas: number;
  readonly #words: Uint32Array<ArrayBuffer>;

  /** Attaches to the bus at `address`, in steps, until `isOver` returns `true`. */
  static *attach(address: Address, concurrency: number, clock: Clock, isOver: () => boolean): Handshake<WorkerHandle> {
    const open = (dir: number): unknown => native.sb_worker_open(dir, cString(address.name), concurrency);
    const result = yield* shake(address, open, clock, HANDSHAKE_MS, isOver);
    return typeof result === "object" ? result : new WorkerHandle(result);
  }

  private constructor(pointer: Pointer) {
    this.pointer = pointer;
    const header = new DataView(view(native.sb_worker_header(pointer) as number, HEADER_BYTES).slice(0));
    this.headLimit = header.getUint32(FIELDS["sb_header.head_limit"][0], true);
    this.payloadLimit = header.getUint32(FIELDS["sb_header.payload_limit"][0], true);
    this.inlineSize = header.getUint32(FIELDS["sb_header.inline_bytes"][0], true);
    this.tag = header.getUint32(FIELDS["sb_header.bus_tag"][0], true).toString(36);
    this.stride = Number(header.getBigUint64(FIELDS["sb_header.stride"][0], true));
    this.arenas = native.sb_worker_arenas(pointer) as number;
    this.#words = new Uint32Array(view(native.sb_worker_request(pointer) as number, CLAIM_BYTES));
    this.flow = new Uint32Array(view(native.sb_worker_look(pointer) as number, FLOW_STATUS_BYTES));
  }

  /** Descriptor of the control socket. An event loop reads it; the library writes to it. */
  get fd(): number {
    return native.sb_worker_fd(this.pointer);
  }

  /** Tells the library that an event loop polls and parks. */
  loops(): void {
    native.sb_worker_loops(this.pointer);
  }

  /** Whether the client's event loop has run since the last call, while the client has requests here. */
  hasTicked(): boolean {
    return native.sb_worker_ticked(this.pointer) === 1;
  }

  /** Counts bells and messages received on the socket. `false`: too many of them found no work. */
  countBells(bells: number): boolean {
    return native.sb_worker_bell(this.pointer, bells) === 0;
  }

  /** Decodes the request that the sessions claimed, into {@link taken}; after "moved", only its slot is set. */
  read(): TakenRequest {
    const { taken } = this;
    const words = this.#words;
    taken.slot = words[SLOT]!;
    taken.token = words[CLAIM]!;
    taken.headBytes = words[HEAD]!;
    taken.bodyOffset = words[OFFSET]!;
    taken.bodyBytes = words[BODY]!;
    taken.timeoutMs = words[TIMEOUT]!;
    const method = words[METHOD]!;
    taken.method = method & ~C.SB_STREAMS;
    taken.streams = (method & C.SB_STREAMS) !== 0;
    taken.serial = words[SERIAL]! + words[SERIAL + 1]! * 0x1_0000_0000;
    return taken;
  }

  /** Responds to a claim; `status` 0 is an error. `false`: the caller has given up. */
  complete(slot: number, token: number, headBytes: number, offset: number, bytes: number, status: number): boolean {
    return native.sb_slot_complete(this.pointer, slot, token, headBytes, offset, bytes, status) === 0;
  }

  /** Starts a streamed response. `false`: the caller has given up. */
  begin(slot: number, token: number, headBytes: number, status: number): boolean {
    return native.sb_slot_begin(this.pointer, slot, token, headBytes, status) >= 0;
  }

  /** Ends a streamed response. `errorBytes`: length of the encoded error after its last byte; 0: no error. */
  finish(slot: number, token: number, errorBytes: number): void {
    native.sb_slot_finish(this.pointer, slot, token, errorBytes);
  }

  /** Whether the caller of a claim has given up, or its client has gone. */
  isAborted(slot: number, token: number): boolean {
    return native.sb_slot_aborted(this.pointer, slot, token) === 1;
  }

  /** See `LinkHandle.flow`. */
  move(slot: number, token: number, sent: number, taken: number, need: number): Flowed {
    return flowed(native.sb_worker_flow(this.pointer, slot, token, sent, taken, C.SB_FLOW_OPEN, need));
  }

  /** Tells the client that the worker leaves. */
  goodbye(): void {
    native.sb_worker_goodbye(this.pointer);
  }

  /** Leaves the socket open in {@link close}: its owner closes it. */
  hangup(): void {
    native.sb_worker_hangup(this.pointer);
  }

  /**
   * Ends the attachment and unmaps the region. Without `isDetached`, user code may still have a view: only pages are
   * freed.
   */
  close(isDetached: boolean): void {
    detach(this.#words.buffer);
    detach(this.flow.buffer);
    native.sb_worker_close(this.pointer, isDetached ? 1 : 0);
  }
}

/**
 * The steps of a handshake, for up to `timeout` ms. `isOver`: whether the worker has given up; `null` for an observer.
 */
export function* shake(
  { name, directory, shared }: Address,
  open: (dir: number) => unknown,
  clock: Clock,
  timeout: number,
  isOver: (() => boolean) | null,
): Handshake<Pointer> {
  const deadline = clock.now() + timeout;
  let dir: number | null;
  try {
    dir = openDirectory(directory, { shared });
  } catch (error) {
    return error as SlotbusError;
  }
  if (dir === null) return new BusNotFoundError(name, directory, 0);
  const versions = new Uint32Array(2);
  const pointer = open(dir) as Pointer | null;
  let isAttached = false;
  try {
    let code = pointer ? native.sb_worker_step(pointer, versions) : native.sb_error_last();
    for (let attempt = 0; code === -C.SB_EAGAIN && clock.now() <= deadline && !isOver?.(); attempt++) {
      yield backoff(attempt, { initial: 1, max: 20 }, clock.random);
      code = native.sb_worker_step(pointer, versions);
    }
    isAttached = code === 0;
    return isAttached ? pointer! : attachError(code, versions, name, directory, isOver ? 0 : timeout);
  } finally {
    native.sb_fd_close(dir);
    if (pointer && !isAttached) native.sb_worker_close(pointer, 1);
  }
}

function attachError(
  code: number,
  versions: Uint32Array,
  name: string,
  directory: string,
  observing: number,
): SlotbusError {
  const what = `The client of bus "${name}"`;
  switch (-code) {
    case C.SB_ENOBUS:
      return new BusNotFoundError(name, directory, 0);
    case C.SB_EVERSION: {
      const [low, high] = versions;
      const isOurs = low === C.SB_ABI && high === C.SB_ABI; // then the structures differ
      return new VersionMismatchError(
        what,
        C.SB_ABI,
        low === high ? `${low}${isOurs ? " of another build" : ""}` : `${low} to ${high}`,
      );
    }
    case C.SB_EPERM:
      return new SlotbusError("PERMISSION_DENIED", `${what} runs as ${usersOf(directory)}.`, {
        hint: `Run both as one user, or add ${process.geteuid?.()} to \`allowedUids\` of SlotBus.create.`,
      });
    case C.SB_EPROTO:
      return new SlotbusError("PROTOCOL", `${what} did not send a valid slotbus handshake.`);
    case C.SB_ECORRUPT:
      return new SlotbusError(
        "REGION_CORRUPT",
        `${what} sent a memory region that is not sealed or has an invalid header.`,
      );
    case C.SB_EAGAIN:
    case C.SB_ETIMEDOUT:
    case observing > 0 ? C.SB_EBUSY : C.SB_EAGAIN:
      if (observing === 0)
        return new SlotbusError("RESOURCE", `${what} did not finish the handshake within ${HANDSHAKE_MS} ms.`);
      return new SlotbusError(
        "RESOURCE",
        `${what} does not answer: it did not accept an observer within ${observing} ms.`,
        {
          hint: "Check whether its process is stopped (SIGSTOP, a debugger) or its event loop is blocked.",
        },
      );
    default:
      return new SlotbusError("RESOURCE", `Cannot attach to bus "${name}": ${errorText(code)}.`);
  }
}
