/** Claim or yield. The processes that contend, wait, stop and die are real. */

import { describe, expect, setSystemTime, test } from "bun:test";
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { type Claimed, Contest, type ContestOptions, Fence, type Guard, type YieldTo } from "../src/contest/index.ts";
import {
  ClaimTimeoutError,
  FleetBusyError,
  ClosedError,
  InvalidConfigError,
  LeaseLostError,
  LeaseOwnerError,
  LeaseTableFullError,
} from "../src/errors.ts";
import { Fleet } from "../src/fleet/fleet.ts";
import type { FleetOptions } from "../src/fleet/options.ts";
import { C, native } from "../src/native/library.ts";
import { type Child, descriptors, rejection, stop, until, Workspace } from "./support.ts";

const A = { kind: "job", label: "a" };
const B = { kind: "job", label: "b" };
const MINUTE = 60_000;

/** A fleet in this process; each contest joins it as its own member. */
class Crew extends Workspace {
  readonly fleets: Fleet[] = [];
  readonly #options: Partial<FleetOptions>;

  constructor(options: Partial<FleetOptions> = {}) {
    super();
    this.#options = options;
  }

  async contest(owner: string, options: Partial<ContestOptions> = {}): Promise<Contest> {
    const fleet = await Fleet.join({ name: this.name, directory: this.directory, ...this.#options });
    this.fleets.push(fleet);
    return Contest.open({ fleet, owner, ...options });
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    for (const fleet of this.fleets) await fleet.close();
    await super[Symbol.asyncDispose]();
  }
}

/** A fleet in a file; its other members are child processes. A killed member may be the last, and leaves the file. */
class Arena extends Workspace {
  fleet!: Fleet;
  contest!: Contest;

  static async open(options: Partial<FleetOptions> = {}): Promise<Arena> {
    const arena = new Arena();
    arena.leftovers = [`${arena.name}.fleet`];
    arena.fleet = await Fleet.join({ name: arena.name, directory: arena.directory, ...options });
    arena.contest = await Contest.open({ fleet: arena.fleet, owner: "parent" });
    return arena;
  }

  contender(...args: (string | number)[]): Child {
    return this.child("contender.ts", ...args.map(String));
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await this.fleet.close();
    await super[Symbol.asyncDispose]();
  }
}

function won(outcome: Claimed | YieldTo): Guard {
  if (!outcome.claimed) throw new Error(`yields to ${outcome.holder.owner}`);
  return outcome.guard;
}

function lost(outcome: Claimed | YieldTo): string {
  return outcome.claimed ? "claimed" : outcome.holder.owner;
}

describe("one attempt", () => {
  test("the first claim wins, the second yields and names the first one's owner", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    const outcome = bob.tryClaim(A, { ttl: MINUTE });
    if (outcome.claimed) throw new Error("two holders");
    expect(outcome.holder).toEqual(guard.holder);
    expect(outcome.holder).toMatchObject({
      subject: A,
      owner: "ada",
      token: guard.token,
      claimId: guard.claimId,
      claimedAt: guard.claimedAt,
      expiresAt: guard.claimedAt + MINUTE,
      pid: process.pid,
    });
  });

  test("a claim may give its own owner; a second claim by the same contest yields too", async () => {
    await using crew = new Crew();
    const contest = await crew.contest("nobody");
    const guard = won(contest.tryClaim(A, { owner: "ada", ttl: 1000 }));
    expect([guard.owner, guard.expiresAt - guard.claimedAt]).toEqual(["ada", 1000]);
    expect(lost(contest.tryClaim(A, { owner: "bob", ttl: 1000 }))).toBe("ada");
  });

  test("different labels of one kind do not compete", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    expect([won(ada.tryClaim(A, { ttl: MINUTE })).owner, won(bob.tryClaim(B, { ttl: MINUTE })).owner]).toEqual([
      "ada",
      "bob",
    ]);
  });

  test("different kinds do not compete for one label, nor do pairs that look alike when joined", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    for (const subject of [A, { kind: "joba", label: "x" }]) won(ada.tryClaim(subject, { ttl: MINUTE }));
    for (const subject of [
      { kind: "task", label: "a" },
      { kind: "job", label: "ax" },
    ]) {
      won(bob.tryClaim(subject, { ttl: MINUTE }));
    }
    expect(ada.list().length).toBe(4);
  });

  test("after an explicit release the next claimant wins, with its own name", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const first = won(ada.tryClaim(A, { ttl: MINUTE }));
    expect(first.release()).toBe(true);
    expect(ada.holder(A)).toBeNull();
    expect(won(bob.tryClaim(A, { ttl: MINUTE })).owner).toBe("bob");
    expect(ada.holder(A)?.owner).toBe("bob");
  });

  test("a claim of 5 ms made at 1000 is over at 1006, though its guard still exists", async () => {
    await using crew = new Crew();
    let time = 1000;
    const now = (): number => time;
    const [ada, bob] = [await crew.contest("ada", { now }), await crew.contest("bob", { now })];
    const guard = won(ada.tryClaim(A, { ttl: 5 }));
    time = 1006;
    expect(won(bob.tryClaim(A, { ttl: 5 })).claimedAt).toBe(1006);
    expect([guard.expiresAt, guard.renew(), guard.release()]).toEqual([1005, false, false]);
    expect(bob.holder(A)?.owner).toBe("bob");
  });

  test("a deadline equal to now has passed", async () => {
    await using crew = new Crew();
    let time = 1000;
    const now = (): number => time;
    const [ada, bob] = [await crew.contest("ada", { now }), await crew.contest("bob", { now })];
    won(ada.tryClaim(A, { ttl: 5 }));
    time = 1004.999;
    expect(lost(bob.tryClaim(A, { ttl: 5 }))).toBe("ada");
    time = 1005;
    expect(bob.holder(A)).toBeNull();
    won(bob.tryClaim(A, { ttl: 5 }));
  });

  test("a loser leaves no trace: A holds, B yields, A releases, C wins", async () => {
    await using crew = new Crew();
    const [a, b, c] = [await crew.contest("a"), await crew.contest("b"), await crew.contest("c")];
    const guard = won(a.tryClaim(A, { ttl: MINUTE }));
    expect(lost(b.tryClaim(A, { ttl: MINUTE }))).toBe("a");
    expect(a.list().length).toBe(1);
    guard.release();
    expect(won(c.tryClaim(A, { ttl: MINUTE })).owner).toBe("c");
  });

  test("six processes at a barrier: exactly one wins, and the others name its token", async () => {
    await using arena = await Arena.open();
    const at = arena.contest.now() + 1500;
    const racers = Array.from({ length: 6 }, () => arena.contender("race", "a", MINUTE, at));
    await Promise.all(racers.map((racer) => until(() => racer.lines.length === 2, "it has tried", 20_000)));
    const outcomes = racers.map((racer) => racer.lines[1]!); // all live until here
    const winners = outcomes.filter((line) => line.startsWith("claimed"));
    expect(winners.length).toBe(1);
    const token = winners[0]!.split(" ")[1]!;
    const losers = outcomes.filter((line) => line.startsWith(`yields to ${token} of race `));
    expect(losers.length).toBe(5);
  }, 30_000);

  test("a child yields to a claim that its parent made before the child joined", async () => {
    await using arena = await Arena.open();
    const guard = won(arena.contest.tryClaim(A, { ttl: MINUTE }));
    const child = arena.contender("hold");
    expect(await child.line("")).toBe(`yields to ${guard.token} of parent`);
  });

  test("10 000 failed tries, and 10 000 claims of other subjects, do not end a lease", async () => {
    await using crew = new Crew({ maxLeases: 8 });
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    for (let i = 0; i < 10_000; i++) {
      if (bob.tryClaim(A, { ttl: MINUTE }).claimed) throw new Error(`lost at ${i}`);
      won(bob.tryClaim({ kind: "other", label: `${i}` }, { ttl: MINUTE })).release();
    }
    expect(ada.holder(A)?.token).toBe(guard.token);
    expect(guard.release()).toBe(true);
  });

  test("events that lap the rings of the same fleet do not end a lease", async () => {
    await using crew = new Crew({ rings: { log: { frames: 8, frameBytes: 64 } } });
    const contest = await crew.contest("ada");
    const guard = won(contest.tryClaim(A, { ttl: MINUTE }));
    const ring = crew.fleets[0]!.ring("log");
    for (let i = 0; i < 1000; i++) ring.publish(`event ${i}`);
    expect(contest.list().map(({ token }) => token)).toEqual([guard.token]);
  });

  test("with a million subjects claimed one after the other, the last claims cost what the first did", async () => {
    await using crew = new Crew({ maxLeases: 64 });
    const contest = await crew.contest("ada");
    const costs: number[] = [];
    for (let part = 0; part < 10; part++) {
      const begun = process.cpuUsage();
      for (let i = 0; i < 100_000; i++) {
        const outcome = contest.tryClaim({ kind: "job", label: `${part} ${i}` }, { ttl: MINUTE });
        if (!outcome.claimed || !outcome.guard.release()) throw new Error(`not claimed: ${part} ${i}`);
      }
      const { user, system } = process.cpuUsage(begun);
      costs.push(user + system);
    }
    console.log(`claim and release: ${(costs.reduce((a, b) => a + b) / 1e6).toFixed(2)} µs of a processor`);
    const median = (part: number[]): number => part.toSorted((a, b) => a - b)[2]!;
    expect(median(costs.slice(5))).toBeLessThan(2 * median(costs.slice(0, 5)));
  }, 60_000);
});

describe("tenures", () => {
  test("a guard whose lease was taken over neither renews nor releases the successor's, whose token is higher", async () => {
    await using crew = new Crew();
    let time = 0;
    const now = (): number => time;
    const [ada, bob] = [await crew.contest("ada", { now }), await crew.contest("bob", { now })];
    const stale = won(ada.tryClaim(A, { ttl: 10 }));
    time = 11;
    const successor = won(bob.tryClaim(A, { ttl: 10 }));
    expect(successor.token).toBeGreaterThan(stale.token);
    expect([stale.renew(), stale.release()]).toEqual([false, false]);
    expect(ada.release(stale.holder, { force: true })).toBe(false);
    expect(ada.adopt(stale.holder)).toBeNull();
    expect(bob.holder(A)?.token).toBe(successor.token);
    expect(successor.expiresAt).toBe(21);
  });

  test("another owner cannot release an observed holder; with force it can", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    won(ada.tryClaim(A, { ttl: MINUTE }));
    const holder = bob.holder(A)!;
    expect(() => bob.release(holder)).toThrow(LeaseOwnerError);
    expect(() => bob.release(holder)).toThrow(/held by "ada" \(pid \d+\), not by "bob"/);
    expect(ada.holder(A)?.token).toBe(holder.token);
    expect(bob.release(holder, { force: true })).toBe(true);
    expect([ada.holder(A), bob.release(holder, { force: true })]).toEqual([null, false]);
  });

  test("a forged holder does not decide: the owner in the table does", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    expect(() => bob.release({ ...guard.holder, owner: "bob" })).toThrow(LeaseOwnerError);
    expect(bob.release({ ...guard.holder, token: guard.token + 1 }, { force: true })).toBe(false);
    expect(bob.release({ ...guard.holder, entry: 100_000 }, { force: true })).toBe(false);
    expect(() => bob.release({ ...guard.holder, entry: -1 })).toThrow(InvalidConfigError);
    expect(() => bob.release(null as never)).toThrow(InvalidConfigError);
    expect(guard.release()).toBe(true);
  });

  test("only the owner that claimed may adopt, with the same token; an ended lease cannot be adopted", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    const holder = bob.holder(A)!;
    expect(() => bob.adopt(holder)).toThrow(LeaseOwnerError);
    const adopted = bob.adopt(holder, { owner: "ada" })!;
    expect([adopted.token, adopted.claimId, adopted.owner]).toEqual([guard.token, guard.claimId, "ada"]);
    expect(adopted.release()).toBe(true);
    expect(bob.adopt(holder, { owner: "ada" })).toBeNull();
    const successor = won(ada.tryClaim(A, { ttl: MINUTE })); // of the same owner, in the same place
    expect(successor.holder.entry).toBe(holder.entry);
    expect(bob.adopt(holder, { owner: "ada" })).toBeNull();
  });

  test("two guards of one tenure both renew it; after the first release the other has lost it", async () => {
    await using crew = new Crew();
    let time = 0;
    const contest = await crew.contest("ada", { now: () => time });
    const guard = won(contest.tryClaim(A, { ttl: 1000 }));
    const adopted = contest.adopt(contest.holder(A)!)!;
    const { signal } = guard;
    time = 900;
    expect(adopted.renew()).toBe(true);
    time = 1100;
    expect(guard.renew()).toBe(true);
    expect(contest.holder(A)?.expiresAt).toBe(2100);
    expect(adopted.release()).toBe(true);
    await until(() => signal.aborted, "the other guard is aborted");
    expect(signal.reason).toBeInstanceOf(LeaseLostError);
    expect(signal.reason.message).toContain("another guard or process released it");
    expect([guard.release(), guard.renew(), contest.list()]).toEqual([false, false, []]);
  });

  test("renewing keeps token and claim id, never shortens the lease, and fails after its loss", async () => {
    await using crew = new Crew();
    let time = 1000;
    const contest = await crew.contest("ada", { now: () => time });
    const guard = won(contest.tryClaim(A, { ttl: 100 }));
    const before = guard.holder;
    time = 1050;
    expect(guard.renew()).toBe(true);
    expect(guard.holder).toEqual({ ...before, expiresAt: 1150 });
    expect(contest.holder(A)).toEqual(guard.holder);
    expect(guard.renew(10)).toBe(true);
    expect(guard.expiresAt).toBe(1150);
    expect(guard.renew(5000)).toBe(true);
    expect([guard.expiresAt, contest.holder(A)?.expiresAt]).toEqual([6050, 6050]);
    time = 6050;
    expect([guard.renew(), guard.release()]).toEqual([false, false]);
  });

  test("an observer sees a tenure begin, renewed and ended, in that order, and cannot claim", async () => {
    await using arena = await Arena.open();
    await using observed = await Fleet.observe({ name: arena.name, directory: arena.directory });
    const observer = await Contest.open({ fleet: observed });
    expect([observer.holder(A), observer.list()]).toEqual([null, []]);
    const guard = won(arena.contest.tryClaim(A, { ttl: MINUTE }));
    expect([observer.holder(A), observer.list()]).toEqual([guard.holder, [guard.holder]]);
    const begun = guard.expiresAt;
    guard.renew(2 * MINUTE);
    expect(observer.holder(A)!.expiresAt).toBeGreaterThan(begun);
    expect(() => observer.tryClaim(B, { ttl: 1 })).toThrow(/observer/);
    expect(() => observer.release(guard.holder, { force: true })).toThrow(/observer/);
    expect((await rejection(observer.claim(A, { ttl: 1 }))).message).toContain("observer");
    guard.release();
    expect(observer.holder(A)).toBeNull();
  });

  test("a list shows every held lease and no ended one", async () => {
    await using crew = new Crew();
    let time = 0;
    const contest = await crew.contest("ada", { now: () => time });
    const labels = ["ä", "b", "日本", "x".repeat(C.SB_LABEL_MAX)];
    const guards = labels.map((label, i) => won(contest.tryClaim({ kind: `k${i}`, label }, { ttl: 10 * (i + 1) })));
    const byToken = contest.list().sort((a, b) => a.token - b.token);
    expect(byToken).toEqual(guards.map(({ holder }) => holder));
    expect(byToken.map(({ subject }) => subject.label)).toEqual(labels);
    guards[1]!.release();
    time = 10;
    expect(new Set(contest.list().map(({ token }) => token))).toEqual(new Set([guards[2]!.token, guards[3]!.token]));
  });

  test("a full table is an error that ends no lease; an ended lease frees its place", async () => {
    await using crew = new Crew({ maxLeases: 4 });
    let time = 0;
    const now = (): number => time;
    const [ada, bob] = [await crew.contest("ada", { now }), await crew.contest("bob", { now })];
    const guards = [100, 100, 50, 100].map((ttl, i) => won(ada.tryClaim({ kind: "job", label: `${i}` }, { ttl })));
    const held = ada.list();
    expect(() => bob.tryClaim(A, { ttl: 1 })).toThrow(LeaseTableFullError);
    expect(() => bob.tryClaim(A, { ttl: 1 })).toThrow(/All 4 leases of fleet/);
    expect(await rejection(bob.claim(A, { ttl: 1 }))).toBeInstanceOf(LeaseTableFullError);
    expect(lost(bob.tryClaim({ kind: "job", label: "0" }, { ttl: 1 }))).toBe("ada");
    expect(ada.list()).toEqual(held);
    guards[0]!.release();
    won(bob.tryClaim(A, { ttl: 100 }));
    expect(() => bob.tryClaim(B, { ttl: 1 })).toThrow(LeaseTableFullError);
    time = 50;
    won(bob.tryClaim(B, { ttl: 100 }));
    expect([guards[1]!.release(), guards[2]!.release(), guards[3]!.release()]).toEqual([true, false, true]);
  });

  test("tokens rise across release, expiry, other subjects and reset", async () => {
    await using crew = new Crew({ maxLeases: 2 });
    let time = 0;
    const contest = await crew.contest("ada", { now: () => time });
    const tokens: number[] = [];
    const claim = (label: string): Guard => {
      const guard = won(contest.tryClaim({ kind: "job", label }, { ttl: 10 }));
      tokens.push(guard.token);
      return guard;
    };
    claim("a").release();
    claim("a");
    time = 10;
    claim("a");
    claim("b");
    contest.reset();
    claim("c");
    claim("a");
    expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
    expect(tokens.length).toBe(6);
    expect(Number.isSafeInteger(tokens[5])).toBe(true);
  });

  test("tokens rise across the end of a fleet and the next fleet of its name", async () => {
    await using arena = await Arena.open();
    const first = won(arena.contest.tryClaim(A, { ttl: MINUTE })).token;
    const child = arena.contender("hold", "b");
    const second = Number((await child.line("claimed")).split(" ")[1]);
    await arena.fleet.close();
    await child.kill(); // the last member: its file is now an orphan
    const next = await Fleet.join({ name: arena.name, directory: arena.directory });
    arena.fleet = next;
    const contest = await Contest.open({ fleet: next });
    expect(contest.list()).toEqual([]);
    const third = won(contest.tryClaim(A, { ttl: MINUTE })).token;
    expect([first, second, third].sort((a, b) => a - b)).toEqual([first, second, third]);
    expect(third).toBeGreaterThan(second);
  });

  test("only the sole member may reset; its own guards lose their leases", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    expect(() => ada.reset()).toThrow(expect.objectContaining({ code: "LEASE_RESET" }));
    expect(() => bob.reset()).toThrow(/2 members/);
    expect(ada.holder(A)?.token).toBe(guard.token);
    await crew.fleets[1]!.close();
    const { signal } = guard;
    ada.reset();
    expect([signal.aborted, guard.release(), ada.list()]).toEqual([true, false, []]);
  });
});

describe("guards", () => {
  test("using releases at the end of the block, also when the block throws", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    expect(() => {
      using guard = won(ada.tryClaim(A, { ttl: MINUTE }));
      expect(lost(bob.tryClaim(A, { ttl: MINUTE }))).toBe(guard.owner);
      throw new Error("inside");
    }).toThrow("inside");
    {
      await using guard = await bob.claim(A, { ttl: MINUTE });
      expect(ada.holder(A)?.token).toBe(guard.token);
    }
    expect(ada.holder(A)).toBeNull();
  });

  test("a second release, or a release after disposal or leaving, returns false and frees no other lease", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    expect([guard.release(), guard.release()]).toEqual([true, false]);
    const successor = won(bob.tryClaim(A, { ttl: MINUTE }));
    guard[Symbol.dispose]();
    await guard[Symbol.asyncDispose]();
    expect([guard.release(), guard.renew()]).toEqual([false, false]);
    expect(ada.holder(A)?.token).toBe(successor.token);
    const left = won(ada.tryClaim(B, { ttl: MINUTE }));
    await crew.fleets[0]!.close();
    left[Symbol.dispose]();
    expect([left.release(), left.renew()]).toEqual([false, false]);
    expect(bob.list().length).toBe(1);
  });

  test("a guard may be disposed of while its process exits, after it left the fleet", async () => {
    await using arena = await Arena.open();
    const child = arena.contender("exit");
    expect(await child.line("")).toBe("released false");
    expect(await child.process.exited).toBe(0);
    expect(arena.contest.list()).toEqual([]);
  });

  test("a clock that fails in a timer loses the guard with that error as the cause; the error is not uncaught", async () => {
    await using crew = new Crew();
    let time = 0;
    const contest = await crew.contest("ada", { now: () => time });
    const renewing = won(contest.tryClaim(A, { ttl: 30, renew: true }));
    const silent = won(contest.tryClaim({ ...A, label: "silent" }, { ttl: 30, renew: true }));
    const expiring = won(contest.tryClaim(B, { ttl: 30 }));
    const signals = [renewing.signal, expiring.signal];
    time = NaN;
    await until(() => signals.every(({ aborted }) => aborted), "both are lost");
    signals.push(silent.signal);
    for (const { reason } of signals) {
      expect(reason).toBeInstanceOf(LeaseLostError);
      expect(reason.cause).toBeInstanceOf(InvalidConfigError);
      expect(reason.cause.message).toContain("now() returned NaN");
    }
    expect([renewing, silent, expiring].map((guard) => guard.release())).toEqual([false, false, false]);
  });

  test("an unreferenced contest is collected, and its guards still abort when the process leaves the fleet", async () => {
    await using crew = new Crew();
    await crew.contest("ada");
    const [fleet] = crew.fleets;
    const refs: WeakRef<object>[] = [];
    for (let i = 0; i < 1_000; i++) {
      const now = (): number => 1_000 + i; // for all parts of the contest
      const contest = await Contest.open({ fleet: fleet!, now });
      refs.push(new WeakRef(contest), new WeakRef(now));
      using guard = won(contest.tryClaim(B, { ttl: MINUTE }));
      if (i % 2 === 0) void guard.signal; // it has slept, too
    }
    const { signal } = won((await Contest.open({ fleet: fleet! })).tryClaim(A, { ttl: MINUTE }));
    await until(() => (Bun.gc(true), refs.filter((ref) => ref.deref()).length < 200), "most of them are gone");
    await fleet!.close();
    expect(signal.reason).toBeInstanceOf(LeaseLostError);
  });

  test("its signal aborts when the time is over, and gives that as the reason", async () => {
    await using crew = new Crew();
    const contest = await crew.contest("ada");
    const guard = won(contest.tryClaim(A, { ttl: 30 }));
    const { signal } = guard;
    expect(signal.aborted).toBe(false);
    await until(() => signal.aborted, "it aborts");
    expect(contest.now()).toBeGreaterThanOrEqual(guard.expiresAt);
    const reason = signal.reason as LeaseLostError;
    expect(reason).toBeInstanceOf(LeaseLostError);
    expect([reason.code, reason.token, reason.subject]).toEqual(["LEASE_LOST", guard.token, A]);
    expect(reason.message).toMatch(/"job" "a" \(token \d+\) is lost: it expired \d+ ms ago/);
  });

  test("its signal aborts when somebody releases it by force, and when the fleet is left", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const forced = won(ada.tryClaim(A, { ttl: MINUTE }));
    const left = won(ada.tryClaim(B, { ttl: MINUTE }));
    const signals = [forced.signal, left.signal];
    bob.release(forced.holder, { force: true });
    await until(() => signals[0]!.aborted, "the forced release aborts it");
    expect(signals[1]!.aborted).toBe(false);
    await crew.fleets[0]!.close();
    expect(signals[1]!.reason.message).toContain("the fleet was closed");
    expect(left.signal).toBe(signals[1]!);
  });

  test("its own release does not abort its signal; a signal first read after the loss is already aborted", async () => {
    await using crew = new Crew();
    let time = 0;
    const contest = await crew.contest("ada", { now: () => time });
    const released = won(contest.tryClaim(A, { ttl: 1 }));
    const { signal } = released;
    released.release();
    const late = won(contest.tryClaim(B, { ttl: 1 }));
    time = 5;
    expect(late.signal.aborted).toBe(true);
    await Bun.sleep(20);
    expect([signal.aborted, released.signal.aborted]).toEqual([false, false]);
  });

  test("with renew a lease outlives its ttl several times, and ends with its release", async () => {
    await using crew = new Crew();
    // This clock leaves out the pauses of a busy machine: the renewal gets its turn after each of them.
    let [time, last] = [1_000, performance.now()];
    const now = (): number => {
      const at = performance.now();
      time += Math.min(at - last, 10);
      last = at;
      return Math.floor(time);
    };
    const [ada, bob] = [await crew.contest("ada", { now }), await crew.contest("bob", { now })];
    const guard = won(ada.tryClaim(A, { ttl: 60, renew: true }));
    const { signal } = guard;
    const end = performance.now() + 400;
    while (performance.now() < end) {
      expect(lost(bob.tryClaim(A, { ttl: 1 }))).toBe("ada");
      await Bun.sleep(5);
    }
    expect(signal.aborted).toBe(false);
    expect(guard.release()).toBe(true);
    expect(won(bob.tryClaim(A, { ttl: 1 })).owner).toBe("bob");
  });

  test("a renewing guard whose tenure is gone notices by itself, and stops", async () => {
    await using crew = new Crew();
    const asked = { ada: 0, bob: 0 };
    const clock = (whose: keyof typeof asked) => ({ now: () => (asked[whose]++, 1_000) }); // no lease ever expires
    const [ada, bob] = [await crew.contest("ada", clock("ada")), await crew.contest("bob", clock("bob"))];
    const guard = await ada.claim(A, { ttl: 30, renew: true });
    bob.release(guard.holder, { force: true });
    const successor = won(bob.tryClaim(A, { ttl: MINUTE }));
    asked.ada = 0;
    await until(() => asked.ada > 0, "a renewal");
    const before = asked.ada;
    expect(guard.signal.reason.message).toContain("another guard or process released it");
    expect(asked.ada).toBe(before); // the renewal had noticed: the lease was not read now
    using witness = won(bob.tryClaim(B, { ttl: 30, renew: true }));
    asked.bob = 0;
    await until(() => asked.bob >= 3, "another guard renews three times");
    expect([asked.ada, witness.release()]).toEqual([before, true]);
    expect(ada.holder(A)).toEqual(successor.holder);
  });

  test("the garbage collector releases nothing: the lease stays until its time is over", async () => {
    await using crew = new Crew();
    const contest = await crew.contest("ada");
    (() => void won(contest.tryClaim(A, { ttl: 3_000 })))();
    await Bun.sleep(1);
    for (let i = 0; i < 3; i++) Bun.gc(true);
    expect(lost(contest.tryClaim(A, { ttl: 1 }))).toBe("ada");
    await until(() => contest.holder(A) === null, "its time is over");
  });

  test("a process that holds a lease, renews it and uses its signal can exit when it has nothing else to do", async () => {
    await using arena = await Arena.open();
    const program = `
      const { Fleet } = await import("${join(import.meta.dir, "../src/fleet/fleet.ts")}");
      const { Contest } = await import("${join(import.meta.dir, "../src/contest/index.ts")}");
      const fleet = await Fleet.join({ name: "${arena.name}", directory: "${arena.directory}" });
      const contest = await Contest.open({ fleet });
      const guard = await contest.claim({ kind: "job", label: "a" }, { ttl: 60000, renew: true });
      console.log(guard.signal.aborted);`;
    const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "inherit" });
    expect([await child.stdout.text(), await child.exited]).toEqual(["false\n", 0]);
    expect(arena.contest.list()).toEqual([]); // it died: its lease is free
  });
});

describe("waiting", () => {
  test("a claim of a free subject resolves at once", async () => {
    await using crew = new Crew();
    const contest = await crew.contest("ada");
    const guard = await contest.claim(A, { ttl: MINUTE, timeout: 1 });
    expect(contest.holder(A)).toEqual(guard.holder);
  });

  test("a release wakes a waiter of the same process", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    const same = ada.claim(A, { owner: "ada 2", ttl: MINUTE, timeout: 5000 });
    const other = bob.claim(A, { ttl: MINUTE, timeout: 5000 });
    guard.release();
    const first = await Promise.race([same, other]);
    first.release();
    const owners = (await Promise.all([same, other])).map(({ owner }) => owner);
    expect(owners).toEqual(["ada 2", "bob"]);
  });

  test("a waiter that woke and found the lease taken is woken again", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    let guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    const claim = bob.claim(A, { ttl: MINUTE, timeout: 2000 });
    for (let i = 0; i < 3; i++) {
      guard.release();
      guard = won(ada.tryClaim(A, { ttl: MINUTE }));
      await Bun.sleep(10); // bob checks the lease, and waits on
    }
    const released = ada.now();
    guard.release();
    expect((await claim).claimedAt - released).toBeLessThan(1000);
  });

  test("a release wakes a waiter of another process", async () => {
    await using arena = await Arena.open();
    const guard = won(arena.contest.tryClaim(A, { ttl: MINUTE }));
    const child = arena.contender("wait");
    await child.line("waits");
    const released = arena.contest.now();
    guard.release();
    const [, token, at] = (await child.line("owns")).split(" ").map(Number);
    expect(token).toBeGreaterThan(guard.token);
    console.log(`released to owned: ${(at! - released).toFixed(2)} ms`);
    expect(at! - released).toBeLessThan(1000);
  });

  test("a hundred waiters of one process get it one after the other, in the order of their calls", async () => {
    await using crew = new Crew();
    const contest = await crew.contest("ada");
    const guard = won(contest.tryClaim(A, { ttl: MINUTE }));
    const order: number[] = [];
    const all = Array.from({ length: 100 }, async (_, i) => {
      using own = await contest.claim(A, { ttl: MINUTE, timeout: 20_000 });
      expect(contest.holder(A)?.token).toBe(own.token);
      order.push(i);
      await Promise.resolve();
    });
    guard.release();
    await Promise.all(all);
    expect(order).toEqual(Array.from({ length: 100 }, (_, i) => i));
  }, 30_000);

  test("the expiry of the holder's lease wakes a waiter, and a renewal keeps it waiting", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: 1_000 }));
    const claim = bob.claim(A, { ttl: MINUTE, timeout: 3_500 });
    await Bun.sleep(20); // bob waits for the first expiry
    expect(guard.renew(1_500)).toBe(true);
    const mine = await claim;
    expect(mine.claimedAt).toBeGreaterThanOrEqual(guard.expiresAt);
    expect(mine.claimedAt - guard.expiresAt).toBeLessThan(1000);
  });

  test("a timeout of 0 does not wait: it claims at once or fails", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = await ada.claim(A, { ttl: MINUTE, timeout: 0 });
    const claim = bob.claim(A, { ttl: MINUTE, timeout: 0 });
    guard.release(); // a waiter would get it now
    const error = await rejection<ClaimTimeoutError>(claim);
    expect(error).toBeInstanceOf(ClaimTimeoutError);
    expect(error.holder.owner).toBe("ada");
    expect((await bob.claim(A, { ttl: MINUTE, timeout: 0 })).owner).toBe("bob");
  });

  test("a closed contest claims no more, and rejects its waits; its guards stay until they are released", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = await ada.claim(A, { ttl: 1500, renew: true });
    const own = await bob.claim(B, { ttl: MINUTE });
    const { signal } = own;
    const waits = [1_000, 2_000].map((timeout) => rejection(bob.claim(A, { ttl: MINUTE, timeout })));
    const others = ada.claim(B, { ttl: MINUTE });
    expect([bob.closed, ada.closed]).toEqual([false, false]);
    await bob.close();
    await bob[Symbol.asyncDispose]();
    for (const error of await Promise.all(waits)) {
      expect(error).toBeInstanceOf(ClosedError);
      expect(error.message).toContain("The contest is closed");
    }
    expect([bob.closed, ada.closed, crew.fleets[1]!.closed]).toEqual([true, false, false]);
    for (const call of [
      () => bob.tryClaim(A, { ttl: 1 }),
      () => bob.holder(A),
      () => bob.list(),
      () => bob.adopt(own.holder),
      () => bob.release(own.holder),
      () => bob.reset(),
    ]) {
      expect(call).toThrow(ClosedError);
    }
    expect(await rejection(bob.claim(A, { ttl: 1 }))).toBeInstanceOf(ClosedError);
    await ada.close();
    expect(await rejection(others)).toBeInstanceOf(ClosedError);
    const { expiresAt } = guard;
    await until(() => guard.expiresAt > expiresAt, "it renews itself");
    expect([guard.renew(), guard.release()]).toEqual([true, true]);
    expect([own.renew(), signal.aborted]).toEqual([true, false]);
    await crew.fleets[1]!.close();
    expect(signal.reason).toBeInstanceOf(LeaseLostError);
  });

  test("a timeout names the holder, and leaves nothing behind", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    const begun = performance.now();
    const error = await rejection<ClaimTimeoutError>(bob.claim(A, { ttl: MINUTE, timeout: 30 }));
    expect(performance.now() - begun).toBeGreaterThanOrEqual(29);
    expect(error).toBeInstanceOf(ClaimTimeoutError);
    expect([error.code, error.retryable, error.holder.token]).toEqual(["CLAIM_TIMEOUT", true, guard.token]);
    expect(error.message).toMatch(/The claim of "job" "a" timed out after 30 ms; "ada" \(pid \d+\) holds the lease/);
    const next = bob.claim(A, { ttl: MINUTE }); // the release wakes bob's waiters: the one that timed out is not among them
    guard.release();
    (await next).release();
    expect(ada.holder(A)).toBeNull();
  });

  test("an abort rejects the wait with its reason, before it starts and during it", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    const reason = new Error("changed my mind");
    expect(await rejection(bob.claim(B, { ttl: 1, signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(ada.holder(B)).toBeNull();
    const controller = new AbortController();
    const claim = bob.claim(A, { ttl: 1, signal: controller.signal });
    controller.abort(reason);
    expect(await rejection(claim)).toBe(reason);
    const next = bob.claim(A, { ttl: MINUTE });
    guard.release();
    (await next).release();
    expect(ada.holder(A)).toBeNull();
  });

  test("leaving the fleet rejects the leaver's waiters, and its leases go to the other members' waiters", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    won(ada.tryClaim(A, { ttl: MINUTE }));
    won(bob.tryClaim(B, { ttl: MINUTE }));
    const leaver = rejection(ada.claim(B, { ttl: 1 }));
    const heir = bob.claim(A, { ttl: MINUTE, timeout: 5000 });
    await crew.fleets[0]!.close();
    expect(await leaver).toBeInstanceOf(ClosedError);
    expect((await heir).owner).toBe("bob");
    expect(() => ada.tryClaim(A, { ttl: 1 })).toThrow(ClosedError);
    expect(() => ada.holder(A)).toThrow(ClosedError);
    expect(() => ada.list()).toThrow(ClosedError);
  });

  test("waiting for several holders takes one descriptor per process, and returns all of them", async () => {
    await using arena = await Arena.open();
    const child = arena.contender("hold", "a");
    await child.line("claimed");
    const before = descriptors();
    const failed = Array.from({ length: 20 }, () => rejection(arena.contest.claim(A, { ttl: 1, timeout: 100 })));
    expect(descriptors() - before).toBeLessThan(6); // a pidfd, and the descriptor that wakes the process
    for (const error of await Promise.all(failed)) expect(error).toBeInstanceOf(ClaimTimeoutError);
    await until(() => descriptors() <= before, "all are closed");
  });
});

describe("processes that stop and die", () => {
  test("SIGKILL of the holder: a waiter of another process gets the lease at once, not at the end of the ttl", async () => {
    await using arena = await Arena.open();
    const took: number[] = [];
    for (let round = 0; round < 5; round++) {
      const holder = arena.contender("hold", `${round}`);
      await holder.line("claimed");
      const waiter = arena.contender("wait", `${round}`);
      await waiter.line("waits");
      expect(arena.contest.holder({ kind: "job", label: `${round}` })?.pid).toBe(holder.pid);
      const killed = arena.contest.now();
      holder.process.kill("SIGKILL");
      took.push(Number((await waiter.line("owns")).split(" ")[2]) - killed);
      await Promise.all([holder.process.exited, waiter.kill()]);
    }
    const median = took.sort((a, b) => a - b)[2]!;
    console.log(`killed to owned: median ${median.toFixed(1)} ms of ${took.map((ms) => ms.toFixed(1)).join(" ")}`);
    expect(median).toBeLessThan(500);
  }, 60_000);

  test("SIGKILL of the holder: a waiter of this process gets the lease at once, not at its timeout", async () => {
    await using arena = await Arena.open();
    const holder = arena.contender("hold");
    await holder.line("claimed");
    const claim = arena.contest.claim(A, { ttl: MINUTE, timeout: 2000 });
    const killed = arena.contest.now();
    await holder.kill();
    const guard = await claim;
    expect(guard.claimedAt - killed).toBeLessThan(1000);
    expect(arena.contest.holder(A)).toEqual(guard.holder);
  });

  test("a holder's descriptor that the event loop rejects is closed; the waiter still gets the lease", async () => {
    await using arena = await Arena.open();
    const holder = arena.contender("hold");
    await holder.line("claimed");
    const functions = native as { sb_pidfd_open: unknown };
    const { sb_pidfd_open } = native;
    let given = -1;
    functions.sb_pidfd_open = (): number => (given = openSync(import.meta.path, "r")); // epoll rejects a regular file
    const isGiven = (): boolean => {
      const link = `/proc/self/fd/${given}`;
      return existsSync(link) && readlinkSync(link) === import.meta.path;
    };
    try {
      const claim = arena.contest.claim(A, { ttl: MINUTE, timeout: 8000 });
      expect(isGiven()).toBe(true);
      await until(() => !isGiven(), "it is closed");
      await holder.kill();
      await claim;
    } finally {
      functions.sb_pidfd_open = sb_pidfd_open;
    }
  }, 15_000);

  test("a child keeps a holder's open file for a moment after its death: the waiter gets the lease when the child ends", async () => {
    await using arena = await Arena.open();
    const holder = arena.contender("leak");
    await holder.line("claimed");
    const claim = arena.contest.claim(A, { ttl: MINUTE, timeout: 8000 });
    const killed = arena.contest.now();
    await holder.kill();
    expect(lost(arena.contest.tryClaim(A, { ttl: 1 }))).toStartWith("leak"); // the kernel has not released its lock
    const guard = await claim;
    expect(guard.claimedAt - killed).toBeGreaterThan(40);
  }, 15_000);

  test("a dead holder's lease is free at once for a single try, and the next member at its index does not revive it", async () => {
    await using arena = await Arena.open();
    const dead = arena.contender("hold");
    const token = Number((await dead.line("claimed")).split(" ")[1]);
    const before = arena.contest.holder(A)!;
    await dead.kill();
    expect(arena.contest.holder(A)).toBeNull();
    const heir = arena.contender("hold", "b");
    await heir.line("claimed");
    const after = arena.contest.holder(B)!;
    expect(after.member).toBe(before.member);
    expect(after.incarnation).not.toBe(before.incarnation);
    expect([arena.contest.holder(A), arena.contest.list()]).toEqual([null, [after]]);
    expect(arena.contest.release(before, { force: true })).toBe(false);
    expect(won(arena.contest.tryClaim(A, { ttl: MINUTE })).token).toBeGreaterThan(token);
  });

  test("SIGSTOP of a holder beyond its ttl: another gets the lease, and the stopped holder learns that it lost it", async () => {
    await using arena = await Arena.open();
    const fence = new Fence();
    const holder = arena.contender("hold", "a", 1500);
    const token = Number((await holder.line("claimed")).split(" ")[1]);
    await stop(holder);
    expect(fence.admit(token)).toBe(true);
    const guard = await arena.contest.claim(A, { ttl: MINUTE, timeout: 20_000 });
    expect(guard.token).toBeGreaterThan(token);
    expect(fence.admit(guard.token)).toBe(true);
    holder.process.kill("SIGCONT");
    expect(await holder.line("lost")).toBe("lost LEASE_LOST released false renewed false");
    expect(fence.admit(token)).toBe(false);
    expect(arena.contest.holder(A)).toEqual(guard.holder);
  }, 30_000);

  test("a stopped member has the lock of the table: each call says so, and succeeds when the lock is free", async () => {
    await using arena = await Arena.open();
    const child = arena.contender("hold");
    await child.line("claimed");
    const guard = won(arena.contest.tryClaim(B, { ttl: MINUTE }));
    const file = openSync(join(arena.directory, `${arena.name}.fleet`), "r+");
    const word = Buffer.alloc(8);
    readSync(file, word, 0, 8, 24); // struct sb_fleet_header.leases_offset; the table begins with its lock
    const table = Number(word.readBigUInt64LE());
    const other = arena.contest.holder(A)!;
    const setLock = (value: number): number => writeSync(file, Buffer.from(Uint32Array.of(value).buffer), 0, 4, table);
    setLock(((other.incarnation << 17) | (other.member + 1)) >>> 0); // as if it had been stopped there
    expect(arena.contest.holder(A)?.token).toBe(other.token); // readers take no lock
    expect(() => arena.contest.tryClaim(A, { ttl: 1 })).toThrow(FleetBusyError);
    expect(() => guard.release()).toThrow(FleetBusyError);
    setLock(0);
    closeSync(file);
    expect(lost(arena.contest.tryClaim(A, { ttl: 1 }))).toBe(other.owner);
    expect(guard.release()).toBe(true);
  }, 20_000);

  test("killed waiters do not take a wake-up from the others", async () => {
    await using arena = await Arena.open();
    const guard = won(arena.contest.tryClaim(A, { ttl: MINUTE }));
    const waiters = Array.from({ length: 4 }, () => arena.contender("wait"));
    await Promise.all(waiters.map((waiter) => waiter.line("waits")));
    const survivor = waiters.pop()!;
    await Promise.all(waiters.map((waiter) => waiter.kill()));
    guard.release();
    await survivor.line("owns", 5000);
    expect(arena.contest.holder(A)?.pid).toBe(survivor.pid);
  }, 30_000);

  test("members killed while they claim and release leave a table in which everything can be claimed", async () => {
    await using arena = await Arena.open({ maxLeases: 16 });
    for (let round = 0; round < 6; round++) {
      const pair = [arena.contender("churn", "x", 5), arena.contender("churn", "x", MINUTE)];
      await Promise.all(pair.map((child) => child.line("churns")));
      await Bun.sleep(10 + 7 * round);
      await Promise.all(pair.map((child) => child.kill()));
      expect(arena.contest.list()).toEqual([]);
    }
    const labels = Array.from({ length: 16 }, (_, i) => (i < 7 ? `x ${i}` : `other ${i}`));
    const guards = labels.map((label) => won(arena.contest.tryClaim({ kind: "churn", label }, { ttl: MINUTE })));
    expect(() => arena.contest.tryClaim(A, { ttl: 1 })).toThrow(LeaseTableFullError);
    expect(arena.contest.list().length).toBe(16);
    for (const guard of guards) expect(guard.release()).toBe(true);
  }, 60_000);

  for (const signal of ["SIGSTOP", "SIGKILL"] as const) {
    test(`workers under ${signal} at any moment: never two holders at once, tokens rise, and work goes on`, async () => {
      await using arena = await Arena.open();
      const file = join(arena.directory, "log");
      arena.leftovers.push("log");
      writeFileSync(file, "");
      const log = (): string[] => readFileSync(file, "utf8").trimEnd().split(/ *\n/);
      const start = (): Child => arena.contender("work", "a", MINUTE, file);
      const workers = [start(), start(), start()];
      await Promise.all(workers.map((worker) => worker.line("works")));
      const killed: Child[] = [];
      for (let round = 0; round < 15; round++) {
        const before = log().length;
        const victim = workers[round % 3]!;
        if (signal === "SIGSTOP") {
          await stop(victim);
          await Bun.sleep(20);
          victim.process.kill("SIGCONT");
        } else {
          await victim.kill();
          killed.push(victim);
          workers[round % 3] = start();
          await workers[round % 3]!.line("works");
        }
        await until(() => log().length > before + 4, "the work goes on", 5000);
      }
      const lines = log(); // before the last ones are killed in the middle of their work
      await Promise.all(workers.map((worker) => worker.kill()));
      const tokens: number[] = [];
      let open: string | null = null;
      let unfinished = 0;
      for (const [i, line] of lines.entries()) {
        const [what, token] = line.split(" ");
        if (what === "enter") {
          if (open !== null) unfinished++; // of a killed worker, or two at once
          open = token!;
          tokens.push(Number(token));
          continue;
        }
        if (line !== `leave ${open}`)
          throw new Error(`${line} after:\n${lines.slice(Math.max(0, i - 9), i).join("\n")}`);
        open = null;
      }
      expect(unfinished).toBeLessThanOrEqual(killed.length);
      expect(tokens).toEqual([...tokens].sort((a, b) => a - b));
      expect(new Set(tokens).size).toBe(tokens.length);
      expect(tokens.length).toBeGreaterThan(20);
    }, 60_000);
  }
});

describe("time", () => {
  test("a step of the wall clock has no effect", async () => {
    await using crew = new Crew();
    const [ada, bob] = [await crew.contest("ada"), await crew.contest("bob")];
    const guard = won(ada.tryClaim(A, { ttl: 60 }));
    try {
      setSystemTime(new Date("2099-01-01"));
      expect(lost(bob.tryClaim(A, { ttl: 1 }))).toBe("ada");
      setSystemTime(new Date(0));
      await until(() => bob.holder(A) === null, "its time is over all the same", 2000);
    } finally {
      setSystemTime();
    }
    expect(ada.now()).toBeGreaterThanOrEqual(guard.expiresAt);
  });

  test("a clock that leaves the fleet finds no call half done: each says that the fleet is closed", async () => {
    const calls = [
      (contest: Contest) => contest.tryClaim(A, { ttl: 1 }),
      (contest: Contest) => contest.holder(A),
      (contest: Contest) => contest.list(),
    ];
    for (const call of calls) {
      await using crew = new Crew();
      const now = (): number => {
        void crew.fleets[0]!.close();
        return 1;
      };
      const contest = await crew.contest("ada", { now });
      expect(() => call(contest)).toThrow(ClosedError);
    }
  });

  test("a caller's clock is checked at each call", async () => {
    await using crew = new Crew();
    let time: number = NaN;
    const contest = await crew.contest("ada", { now: () => time });
    for (time of [NaN, -1, Infinity]) expect(() => contest.tryClaim(A, { ttl: 1 })).toThrow(/now\(\) returned/);
    const opened = Contest.open({ fleet: crew.fleets[0]!, now: 5 as never });
    expect(await rejection(opened)).toBeInstanceOf(InvalidConfigError);
  });

  for (const ttl of [0, -1, NaN, Infinity, 0xffff_ffff + 1, "5", null, undefined, 5n]) {
    test(`a ttl of ${typeof ttl} ${String(ttl)} is refused with its range, and nothing is claimed`, async () => {
      await using crew = new Crew();
      const contest = await crew.contest("ada");
      const bad = { ttl: ttl as number };
      expect(() => contest.tryClaim(A, bad)).toThrow(InvalidConfigError);
      expect(() => contest.tryClaim(A, bad)).toThrow(/ttl is .*; it must be above 0 and at most 4294967295 ms/);
      expect(await rejection(contest.claim(A, bad))).toBeInstanceOf(InvalidConfigError);
      expect(contest.list()).toEqual([]);
      const guard = won(contest.tryClaim(A, { ttl: 0xffff_ffff }));
      expect(guard.expiresAt - guard.claimedAt).toBeCloseTo(0xffff_ffff, 3);
      if (ttl !== undefined) expect(() => guard.renew(bad.ttl)).toThrow(InvalidConfigError);
    });
  }

  for (const timeout of [-1, NaN, 2 ** 32, "5"]) {
    test(`a timeout of ${String(timeout)} is refused`, async () => {
      await using crew = new Crew();
      const contest = await crew.contest("ada");
      const error = await rejection(contest.claim(A, { ttl: 1, timeout: timeout as number }));
      expect(error).toBeInstanceOf(InvalidConfigError);
    });
  }
});

describe("subjects", () => {
  test("kind, label and owner of their maximum length are claimed and shown; one byte more is refused", async () => {
    await using crew = new Crew();
    const contest = await crew.contest("ada");
    const longest = (limit: number): string[] => ["x".repeat(limit), "é".repeat(limit / 2), "🦊".repeat(limit / 4)];
    for (let i = 0; i < 3; i++) {
      const [kind, label, owner] = [C.SB_KIND_MAX, C.SB_LABEL_MAX, C.SB_OWNER_MAX].map((limit) => longest(limit)[i]!);
      using guard = won(contest.tryClaim({ kind: kind!, label: label! }, { owner, ttl: MINUTE }));
      expect(contest.holder(guard.subject)).toMatchObject({ subject: { kind, label }, owner });
      expect(contest.list()).toEqual([guard.holder]);
      const more = (text: string): RegExp => new RegExp(`${Buffer.byteLength(text)} bytes\\); .* 1 to \\d+ bytes`);
      const tooLong = { kind: `${kind}.`, label: `${label}.` };
      expect(() => contest.tryClaim({ kind: tooLong.kind, label: "x" }, { ttl: 1 })).toThrow(more(tooLong.kind));
      expect(() => contest.tryClaim({ kind: "x", label: tooLong.label }, { ttl: 1 })).toThrow(more(tooLong.label));
      expect(() => contest.tryClaim(A, { owner: `${owner}.`, ttl: 1 })).toThrow(more(`${owner}.`));
      expect(contest.list().length).toBe(1);
    }
  });

  const bad: [unknown, RegExp][] = [
    ["", /is empty; it must be text of 1 to/],
    ["a\0b", /has a NUL at character 1/],
    ["a\ud800", /half a surrogate pair/],
    [5, /is 5;/],
    [null, /is (null|undefined);/],
    [undefined, /is undefined;/],
    [{}, /is \{\};/],
  ];
  for (const [text, message] of bad) {
    test(`${JSON.stringify(text) ?? "undefined"} is not a valid kind, label or owner`, async () => {
      await using crew = new Crew();
      const contest = await crew.contest("ada");
      const as = text as string;
      for (const subject of [
        { kind: as, label: "x" },
        { kind: "x", label: as },
      ]) {
        expect(() => contest.tryClaim(subject, { ttl: 1 })).toThrow(InvalidConfigError);
        expect(() => contest.tryClaim(subject, { ttl: 1 })).toThrow(message);
        expect(() => contest.holder(subject)).toThrow(message);
        expect((await rejection(contest.claim(subject, { ttl: 1 }))).message).toMatch(message);
      }
      if (text !== undefined) {
        expect(() => contest.tryClaim(A, { owner: as, ttl: 1 })).toThrow(message);
        const opened = Contest.open({ fleet: crew.fleets[0]!, owner: as });
        expect((await rejection(opened)).message).toMatch(message);
        expect(() => contest.release({} as never, { owner: as })).toThrow(message);
      }
      expect(contest.list()).toEqual([]);
    });
  }

  test("an observer can read, and any other call is refused at once", async () => {
    await using arena = await Arena.open();
    const guard = won(arena.contest.tryClaim(A, { owner: "ada", ttl: MINUTE }));
    await using observer = await Fleet.observe({ name: arena.name, directory: arena.directory });
    const contest = await Contest.open({ fleet: observer, owner: "ada" });
    const holder = contest.holder(A)!;
    expect([holder, ...contest.list()]).toEqual([guard.holder, guard.holder]);
    for (const call of [
      () => contest.adopt(holder),
      () => contest.adopt(holder, { renew: true, ttl: 1 }),
      () => contest.tryClaim(B, { ttl: 1 }),
      () => contest.release(holder, { force: true }),
      () => contest.release(holder, { owner: "bob" }),
      () => contest.reset(),
    ]) {
      expect(call).toThrow(/^An observer of a fleet cannot claim or release leases/);
      expect(call).toThrow(InvalidConfigError);
    }
    expect(await rejection(contest.claim(A, { ttl: 1, timeout: 10 }))).toBeInstanceOf(InvalidConfigError);
    expect(arena.contest.holder(A)).toEqual(guard.holder);
    await observer.close();
    expect(() => contest.tryClaim(B, { ttl: 1 })).toThrow(ClosedError);
  });

  test("an invalid fleet or signal is refused with one error, which shows the value", async () => {
    await using crew = new Crew();
    const contest = await crew.contest("ada");
    const [fleet] = crew.fleets;
    for (const none of [undefined, null, {}, { fleet: null }, { fleet: { onClose() {} } }, fleet]) {
      expect(await rejection(Contest.open(none as never))).toBeInstanceOf(InvalidConfigError);
    }
    for (const call of [
      () => contest.adopt(null as never),
      () => contest.adopt({} as never, null as never),
      () => contest.release({} as never, null as never),
      () => new Fence(null as never),
      () => new Fence().admit(Object.create(null)),
      () => contest.tryClaim(Object.create(null), { ttl: 1 }),
      () => contest.tryClaim(A, { ttl: Object.create(null) }),
      () => contest.tryClaim(A, { ttl: Symbol("5") as never }),
    ]) {
      expect(call).toThrow(InvalidConfigError);
    }
    expect(() => contest.tryClaim(A, { ttl: "5" as never })).toThrow('ttl is "5"; ');
    const claim = contest.claim(A, { ttl: 1, signal: 7 as never });
    expect((await rejection(claim)).message).toContain("signal is 7; ");
    expect(contest.list()).toEqual([]);
  });

  test("invalid subjects and options are refused", async () => {
    await using crew = new Crew();
    const contest = await crew.contest("ada");
    for (const subject of [null, undefined, "job", 5]) {
      expect(() => contest.tryClaim(subject as never, { ttl: 1 })).toThrow(InvalidConfigError);
    }
    const guard = won(contest.tryClaim(B, { ttl: MINUTE }));
    for (const options of [null, undefined, 5, { ttl: 1, tll: 1 }, { ttl: 1, renew: 1 }]) {
      expect(() => contest.tryClaim(A, options as never)).toThrow(InvalidConfigError);
      expect(await rejection(contest.claim(A, options as never))).toBeInstanceOf(InvalidConfigError);
    }
    for (const call of [
      () => contest.tryClaim(A, { ttl: 1, timeout: 1 } as never),
      () => contest.adopt(guard.holder, { force: true } as never),
      () => contest.release(guard.holder, { ttl: 1 } as never),
      () => new Fence({ highwater: 1 } as never),
    ]) {
      expect(call).toThrow(/has no option/);
    }
    const opened = Contest.open({ fleet: crew.fleets[0]!, name: "x" } as never);
    expect((await rejection(opened)).message).toContain('a contest has no option "name"');
    expect(contest.list()).toEqual([guard.holder]);
  });
});

describe("fence", () => {
  test("it admits equal and higher tokens and rejects lower ones; a restored mark rejects what is below it", () => {
    const fence = new Fence();
    expect([fence.admit(5), fence.admit(5), fence.admit(4), fence.admit(7), fence.admit(6)]).toEqual([
      true,
      true,
      false,
      true,
      false,
    ]);
    const restored = new Fence({ highWater: fence.highWater });
    expect([restored.highWater, restored.admit(6), restored.admit(7), restored.admit(8)]).toEqual([
      7,
      false,
      true,
      true,
    ]);
  });

  test("an invalid token is refused, and the mark stays", () => {
    const fence = new Fence({ highWater: 3 });
    for (const token of [-1, 1.5, NaN, 2 ** 53, "9", undefined]) {
      expect(() => fence.admit(token as number)).toThrow(InvalidConfigError);
      if (token !== undefined) expect(() => new Fence({ highWater: token as number })).toThrow(InvalidConfigError);
    }
    expect(fence.highWater).toBe(3);
  });
});
