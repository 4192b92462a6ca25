/**
 * `hostile/evil.ts NAME`: a client that breaks the rules of streams. It is a real client that also writes directly into the
 * region of its one worker, which it finds among its own mappings.
 */

import { readFileSync } from "node:fs";
import { SlotBus } from "../../../src/index.ts";
import { C, detach, FIELDS, view } from "../../../src/native/library.ts";
import { until } from "../../support.ts";
import type { Common } from "../actor.ts";
import { type Evil, LEGAL } from "./evils.ts";

export type Order = { do: Evil };
/** `writes`: into the region. `left`: the worker has gone. */
export type Report = Common | { is: "attacked"; writes: number; left: boolean };

const PIECE = 1_000;
const LEAVES_MS = 3_000;
const SLOT_BYTES = 4 * C.SB_LINE;
const FIRST_SLOT = FIELDS["sb_region.pad5"][0] + C.SB_LINE;

const say = (report: Report): void => void process.send!(report);
const bus = await SlotBus.create({ name: process.argv[2]!, slots: 8, payloadBytes: 65_536, headBytes: 4_096 });
bus.ref();
let deaths = 0;
let writes = 0;
bus.on("died", () => deaths++);
bus.on("left", () => deaths++);

class Region {
  readonly buffer: ArrayBuffer;
  readonly words: BigUint64Array;
  readonly halves: Uint32Array;

  constructor() {
    for (const line of readFileSync("/proc/self/maps", "latin1").split("\n")) {
      const [, start, end] = /^(\w+)-(\w+) rw-s .*memfd:slotbus/.exec(line) ?? [];
      if (!start || !end) continue;
      const address = Number.parseInt(start, 16);
      const bytes = Number.parseInt(end, 16) - address;
      const buffer = view(address, bytes);
      if (new BigUint64Array(buffer, FIELDS["sb_header.region_bytes"][0], 1)[0] !== BigInt(bytes)) {
        detach(buffer); // the statistics
        continue;
      }
      this.buffer = buffer;
      this.words = new BigUint64Array(buffer);
      this.halves = new Uint32Array(buffer);
      return;
    }
    throw new Error("there is no region");
  }

  #flow(side: "client" | "worker", slot: number): number {
    return FIRST_SLOT + slot * SLOT_BYTES + FIELDS[`sb_slot.${side}`][0];
  }

  put(slot: number, field: "sent" | "taken", value: bigint): void {
    this.words[(this.#flow("client", slot) + FIELDS[`sb_flow.${field}`][0]) / 8] = value;
    writes++;
  }

  end(slot: number, ended: number, errorBytes: number): void {
    this.halves[(this.#flow("client", slot) + FIELDS["sb_flow.error_bytes"][0]) / 4] = errorBytes;
    this.halves[(this.#flow("client", slot) + FIELDS["sb_flow.ended"][0]) / 4] = ended;
    writes += 2;
  }

  taken(slot: number): number {
    return Number(this.words[(this.#flow("worker", slot) + FIELDS["sb_flow.taken"][0]) / 8]!);
  }

  /** Fills the ring of a slot, and the bytes around it in the request's arena, with a mark. */
  mark(slot: number): void {
    const stride = Number(this.words[FIELDS["sb_header.stride"][0] / 8]!);
    const arenas = Number(this.words[FIELDS["sb_header.arenas_offset"][0] / 8]!);
    new Uint8Array(this.buffer, arenas + 2 * slot * stride + 4_096, stride - 4_096).fill(0xee);
  }

  hint(slot: number): void {
    Atomics.or(this.words, FIELDS["sb_region.ready"][0] / 8, 1n << BigInt(slot));
  }
}

/** The slot of a request. */
function slotOf(id: string): number {
  return bus.diagnostics().slots.find(({ requestId }) => requestId === id)?.slot ?? -1;
}

/** Wakes the worker, which then checks every hint. */
async function ring(): Promise<void> {
  await bus.request({ path: "/ping" }, { timeout: 1_000 }).catch(() => {});
}

function harm(region: Region, slot: number, how: Evil): void {
  if (how === "back") region.put(slot, "sent", 1n);
  if (how === "beyond") region.put(slot, "sent", BigInt(PIECE + C.SB_RING_MAX + 1));
  if (how === "taken") {
    region.put(slot, "taken", 1n << 40n);
    region.put(slot, "sent", BigInt(PIECE + 1)); // it checks `taken` when bytes arrive
  }
  if (how === "bad-end") region.end(slot, 9, 0);
  if (how === "bad-error") region.end(slot, C.SB_FLOW_ERROR, 2 ** 31);
}

/** Switches between a legal and an illegal count while the worker reads it. */
function flip(region: Region, slot: number): void {
  const end = performance.now() + 10;
  while (performance.now() < end) {
    for (let i = 0; i < 1_000; i++) region.put(slot, "sent", BigInt(i & 1 ? PIECE + 64 : PIECE + 2 * C.SB_RING_MAX));
    region.hint(slot);
  }
}

async function attack(how: Evil): Promise<void> {
  await bus.ready();
  const before = deaths;
  const abort = new AbortController();
  const body = (async function* () {
    yield new Uint8Array(PIECE).fill(0xee);
    await new Promise<void>((done) => abort.signal.addEventListener("abort", () => done()));
  })();
  const id = `${how}-${writes}`;
  const asked = bus.request({ path: "/read", id, body }, { timeout: 20_000, signal: abort.signal }).catch(() => {});
  const region = new Region();
  await until(
    () => slotOf(id) >= 0 && region.taken(slotOf(id)) === PIECE,
    `the worker has read the first piece ("${how}")`,
  );
  const slot = slotOf(id);
  region.mark(slot);
  const limit = performance.now() + LEAVES_MS;
  const isLegal = LEGAL.includes(how);
  const litter = (sent: bigint): void => {
    for (let other = 0; other < 8; other++) if (other !== slot) region.put(other, "sent", sent);
  };
  if (how === "free") litter(1n << 63n);
  harm(region, slot, how);
  do {
    region.hint(slot);
    const rung = ring();
    if (how === "flips") flip(region, slot);
    await rung;
  } while (deaths === before && performance.now() < (isLegal ? limit - LEAVES_MS + 100 : limit));
  if (how === "free") litter(0n);
  if (!detach(region.buffer)) throw new Error("the region is held");
  const left = deaths > before;
  abort.abort();
  await asked;
  if (!left && isLegal) await ring();
  say({ is: "attacked", writes, left });
}

process.on("disconnect", () => process.exit(0));
process.on("message", (order: Order) => void attack(order.do));
say({ is: "loaded" });
