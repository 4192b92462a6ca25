/** `fleet/points/member.ts NAME BOOKS`: waits for orders, obeys, writes down what it published and received. */

import { closeSync, openSync } from "node:fs";
import { FleetBusyError, SlotbusError } from "../../../../src/errors.ts";
import { Contest, type Guard } from "../../../../src/contest/index.ts";
import { Fleet } from "../../../../src/fleet/fleet.ts";
import { fleetOptions, withDefaults } from "../../../../src/fleet/options.ts";
import type { Cursor, CursorItem } from "../../../../src/fleet/ring.ts";
import { encodeWant } from "../../../../src/native/fleet-geometry.ts";
import { C, FIELDS, native, type Pointer, view } from "../../../../src/native/library.ts";
import { Books, eventOf, payloadOf, PUBLISHED, REFUSED, type Subject, SUBJECTS, type Subscription } from "./books.ts";
import type { Numbered, Order, Report, Result, Tenure } from "./talk.ts";

const [name, directory] = process.argv.slice(2);
const books = new Books(directory!);
/** The largest event has a fifth of the ring's frames, so that it is overwritten often. */
const SIZES = { maxMembers: 8, maxLeases: 16, rings: { events: { frames: 128, frameBytes: 64 } } };
const BYTES = [8, 64, 200, 33, 1_500, 100];
/** Nothing that is proved here waits for the end of a lease's time. */
const TTL_MS = 3_600_000;

function say(report: Report): void {
  process.send!(report);
}

function broken(what: string): void {
  say({ is: "broken", what: `pid ${process.pid}: ${what}` });
}

// ---- a member -------------------------------------------------------------------------------------------------------

/** A membership and what belongs to it. */
class Member {
  readonly fleet: Fleet;
  readonly #contest: Contest;
  readonly #subscription: Subscription;
  readonly #guards = new Map<Subject, Guard>();
  /** By writer: its last event. */
  readonly #last = new Map<string, number>();
  #published = 0;

  constructor(fleet: Fleet, contest: Contest) {
    this.fleet = fleet;
    this.#contest = contest;
    this.#subscription = books.subscribe();
    const cursor = fleet.ring("events").cursor();
    this.#subscription.position = cursor.bookmark.position;
    this.#subscription.from = books.events;
    this.#read(cursor).catch((error) => broken(`reading: ${Bun.inspect(error)}`));
  }

  get subscription(): number {
    return this.#subscription.number;
  }

  /** A cursor that fails for want of something is followed by one that goes on at its place. */
  async #read(cursor: Cursor): Promise<void> {
    let next = cursor.bookmark.event!;
    try {
      for await (const item of cursor) {
        next = this.#take(item, next);
        this.#subscription.position = cursor.bookmark.position;
      }
    } catch (error) {
      if (!(error instanceof SlotbusError)) throw error;
      say({ is: "refused", code: error.code });
      cursor.close();
      await this.#read(this.fleet.ring("events").cursor({ from: cursor.bookmark }));
    }
  }

  /** Returns the number of the event that is to come next. */
  #take(item: CursorItem, next: number): number {
    if ("epoch" in item) broken(`its epoch changed to ${item.epoch}`);
    if ("overwritten" in item) {
      this.#subscription.overwritten += item.overwritten;
      return next + item.overwritten;
    }
    if (!("body" in item)) return next;
    if (item.event !== next) broken(`event ${item.event} of the ring came, and ${next} was next`);
    const event = eventOf(item.body);
    const writer = `${item.writer}.${item.incarnation}`;
    if (event < 0) broken(`event ${item.event} of the ring is torn`);
    else if (event <= (this.#last.get(writer) ?? -1)) broken(`event ${event} of member ${writer} came late or twice`);
    else this.#last.set(writer, event);
    if (event >= 0) this.#subscription.received[event]!++;
    return item.event + 1;
  }

  async publish(count: number, paced: boolean): Promise<void> {
    for (let n = 0; n < count; n++) {
      if (paced) await Bun.sleep(1 + (n % 3)); // everybody sleeps again
      this.#publishOne();
    }
  }

  #publishOne(): void {
    const event = books.begin();
    try {
      this.fleet.ring("events").publish(payloadOf(event, BYTES[this.#published++ % BYTES.length]!));
    } catch (error) {
      books.outcome[event] = REFUSED;
      throw error;
    }
    books.outcome[event] = PUBLISHED;
  }

  claim(subject: Subject): Tenure[] {
    const outcome = this.#contest.tryClaim({ kind: "job", label: subject }, { ttl: TTL_MS });
    return outcome.claimed ? [this.#keep(subject, outcome.guard)] : [];
  }

  async wait(subject: Subject): Promise<{ tenures: Tenure[]; busy: number }> {
    for (let busy = 0; ; busy++) {
      try {
        const guard = await this.#contest.claim({ kind: "job", label: subject }, { ttl: TTL_MS });
        return { tenures: [this.#keep(subject, guard)], busy };
      } catch (error) {
        if (!(error instanceof FleetBusyError)) throw error;
        await Bun.sleep(1);
      }
    }
  }

  #keep(subject: Subject, guard: Guard): Tenure {
    this.#guards.set(subject, guard);
    return { subject, token: guard.token, before: books.hold(subject) };
  }

  renew(subject: Subject): void {
    if (this.#guards.get(subject)?.renew() === false) broken(`the lease of ${subject} was lost before it was renewed`);
  }

  release(subject: Subject): void {
    const guard = this.#guards.get(subject);
    if (!guard) return;
    books.give(subject);
    if (!guard.release()) broken(`the lease of ${subject} was lost before it was released`);
    this.#guards.delete(subject);
  }

  seize(subject: Subject): void {
    const holder = this.#contest.holder({ kind: "job", label: subject });
    if (!holder) return;
    books.take(subject);
    this.#contest.release(holder, { force: true });
  }

  holder(subject: Subject): number {
    return this.#contest.holder({ kind: "job", label: subject })?.pid ?? 0;
  }

  sweep(): Tenure[] {
    return SUBJECTS.flatMap((subject) => {
      const tenures = this.claim(subject);
      if (tenures.length === 0) broken(`${subject} is not free`);
      this.release(subject);
      return tenures;
    });
  }

  reset(): void {
    for (const subject of this.#guards.keys()) books.give(subject);
    this.#guards.clear();
    this.#contest.reset();
  }

  async leave(): Promise<void> {
    for (const subject of this.#guards.keys()) books.give(subject);
    await this.fleet.close();
  }
}

// ---- a fleet in memory, which lasts as long as anybody has its descriptor ---------------------------------------------

const memory: { fd: number; handle: Pointer | null } = { fd: -1, handle: null };

function checked(code: number, what: string): number {
  if (code < 0) throw new Error(`${what}: ${code}`);
  return code;
}

function text(handle: Pointer, value: string): number {
  const buffer = view(native.sb_fleet_staging(handle, C.SB_PAGE) as number, C.SB_PAGE);
  return new TextEncoder().encodeInto(value, new Uint8Array(buffer)).written;
}

/** Uses it at once: an event, a tenure. */
function joinMemory(): Result {
  const handle = native.sb_fleet_join_memory(memory.fd, null) as Pointer | null;
  if (!handle) return { code: String(native.sb_error_last()) };
  memory.handle = handle;
  const header = new DataView(view(native.sb_fleet_header(handle) as unknown as number, C.SB_PAGE));
  const epoch = Number(header.getBigUint64(FIELDS["sb_fleet_header.epoch"][0], true));
  const head = native.sb_ring_head(handle, 0);
  checked(native.sb_ring_publish(handle, 0, 0, text(handle, "event")), "publish");
  text(handle, `kind${process.pid}`);
  checked(native.sb_lease_claim(handle, 4, String(process.pid).length, 0, TTL_MS, -1), "claim");
  const holder = new DataView(view(native.sb_lease_holder(handle) as unknown as number, 64));
  const token = holder.getFloat64(FIELDS["sb_holder.token"][0], true);
  return { epoch, head, token };
}

function leaveMemory(): void {
  if (memory.handle) native.sb_fleet_leave(memory.handle, 1);
  memory.handle = null;
}

function useMemory(order: Extract<Order, { do: "memory" }>): Result {
  if (order.how === "make") {
    memory.fd = checked(
      native.sb_fleet_memory(encodeWant(withDefaults(fleetOptions.resolve({ name: name!, ...SIZES })))),
      "memory",
    );
    return { fd: memory.fd };
  }
  if (order.how === "open") memory.fd = openSync(order.path, "r+");
  if (order.how === "join") return joinMemory();
  if (order.how === "leave") leaveMemory();
  if (order.how !== "close") return {};
  leaveMemory();
  if (memory.fd >= 0) closeSync(memory.fd);
  memory.fd = -1;
  return {};
}

// ---- orders ---------------------------------------------------------------------------------------------------------

let member: Member;

const join = (): Promise<Fleet> => Fleet.join({ name: name!, ...SIZES });

async function enter(): Promise<Member> {
  const fleet = await join();
  return new Member(fleet, await Contest.open({ fleet }));
}

async function obey(order: Order): Promise<Result> {
  switch (order.do) {
    case "join":
      member = await enter();
      return { subscription: member.subscription, epoch: member.fleet.epoch };
    case "leave":
      await member.leave();
      return {};
    case "visit": {
      const visitor = await join();
      const { epoch } = visitor;
      await visitor.close();
      return { epoch };
    }
    case "members":
      return { pids: member.fleet.members().map(({ pid }) => pid) };
    case "publish":
      await member.publish(order.count, order.paced);
      return {};
    case "claim":
      return { tenures: member.claim(order.subject) };
    case "wait":
      return member.wait(order.subject);
    case "renew":
      member.renew(order.subject);
      return {};
    case "release":
      member.release(order.subject);
      return {};
    case "seize":
      member.seize(order.subject);
      return {};
    case "holder":
      return { holder: member.holder(order.subject) };
    case "sweep":
      return { tenures: member.sweep() };
    case "reset":
      member.reset();
      return {};
    case "memory":
      return useMemory(order);
  }
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Numbered) => {
  const { id } = order;
  try {
    say({ is: "done", id, ...(await obey(order)) });
  } catch (error) {
    if (error instanceof SlotbusError) return say({ is: "done", id, code: error.code });
    broken(`told to ${order.do}: ${Bun.inspect(error)}`);
    say({ is: "done", id, code: "BROKEN" });
  }
});
say({ is: "loaded" });
