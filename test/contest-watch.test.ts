/** What a watch reports about leases. The processes that claim, renew, release, stop and die are real. */

import { expect, test } from "bun:test";
import {
  type Claimed,
  Contest,
  type ContestOptions,
  type Guard,
  type LeaseChange,
  LeaseWatch,
  type YieldTo,
} from "../src/contest/index.ts";
import { ClosedError, InvalidConfigError } from "../src/errors.ts";
import { Fleet } from "../src/fleet/fleet.ts";
import { type Child, rejection, until, Workspace } from "./support.ts";

const A = { kind: "job", label: "a" };
const MINUTE = 60_000;
const DONE: IteratorResult<never> = { done: true, value: undefined };

/** A fleet in a file. A killed member may be the last, and leaves the file. */
class Arena extends Workspace {
  readonly #fleets: Fleet[] = [];

  static open(): Arena {
    const arena = new Arena();
    arena.leftovers = [`${arena.name}.fleet`];
    return arena;
  }

  async fleet(): Promise<Fleet> {
    const fleet = await Fleet.join({ name: this.name, directory: this.directory });
    this.#fleets.push(fleet);
    return fleet;
  }

  /** A new member. */
  async contest(options: Partial<ContestOptions> = {}): Promise<Contest> {
    return Contest.open({ fleet: await this.fleet(), ...options });
  }

  contender(way: string, ttl = MINUTE): Child {
    return this.child("contender.ts", way, "a", String(ttl));
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    for (const fleet of this.#fleets) await fleet.close();
    await super[Symbol.asyncDispose]();
  }
}

function won(outcome: Claimed | YieldTo): Guard {
  if (!outcome.claimed) throw new Error(`yields to ${outcome.holder.owner}`);
  return outcome.guard;
}

async function next(watch: LeaseWatch): Promise<LeaseChange> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error("the watch reported nothing for 10 s")), 10_000);
  const step = await Promise.race([watch.next(), promise]).finally(() => clearTimeout(timer));
  if (step.done) throw new Error("the watch has ended");
  return step.value;
}

/** Type and token. */
function brief({ type, holder }: LeaseChange): [string, number] {
  return [type, holder.token];
}

test("two watchers see a claim, a renewal and a release by another process", async () => {
  await using arena = Arena.open();
  const watches = [(await arena.contest()).watch(A), (await arena.contest()).watchAll()];
  const first = Promise.all(watches.map(next));
  const child = arena.contender("obey");
  const [claimed, same] = await first;
  expect(claimed).toEqual(same!);
  expect(claimed).toMatchObject({
    type: "claimed",
    holder: { subject: A, pid: child.pid, owner: `obey ${child.pid}` },
  });
  const { token, expiresAt } = claimed!.holder;
  expect(await child.line("claimed")).toBe(`claimed ${token}`);
  const renewed = Promise.all(watches.map(next));
  child.process.kill("SIGHUP");
  for (const change of await renewed) {
    expect(change).toEqual({ type: "renewed", holder: { ...claimed!.holder, expiresAt: change.holder.expiresAt } });
    expect(change.holder.expiresAt).toBeGreaterThan(expiresAt);
  }
  const released = Promise.all(watches.map(next));
  child.process.kill("SIGUSR2");
  expect((await released).map(brief)).toEqual([
    ["released", token],
    ["released", token],
  ]);
}, 30_000);

test("the present holder comes first; changes of other subjects do not come", async () => {
  await using arena = Arena.open();
  const [ada, bob] = [await arena.contest({ owner: "ada" }), await arena.contest({ owner: "bob" })];
  const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
  const watch = bob.watch({ ...A });
  expect(await next(watch)).toEqual({ type: "claimed", holder: guard.holder });
  const other = won(ada.tryClaim({ kind: "job", label: "b" }, { ttl: MINUTE }));
  const told = next(watch);
  guard.release();
  expect(brief(await told)).toEqual(["released", guard.token]);
  expect(bob.watchAll().poll()).toEqual([{ type: "claimed", holder: other.holder }]);
});

test("the expiry of a lease is reported when its time is over, and before the next claim", async () => {
  await using arena = Arena.open();
  const [ada, bob] = [await arena.contest(), await arena.contest()];
  const watch = bob.watch(A);
  const guard = won(ada.tryClaim(A, { ttl: 30 }));
  expect(brief(await next(watch))).toEqual(["claimed", guard.token]);
  expect(brief(await next(watch))).toEqual(["expired", guard.token]);
  expect(bob.now()).toBeGreaterThanOrEqual(guard.expiresAt);
  const short = won(ada.tryClaim(A, { ttl: 1 }));
  expect(brief(await next(watch))).toEqual(["claimed", short.token]);
  await until(() => ada.now() > short.expiresAt, "its time is over");
  const after = won(ada.tryClaim(A, { ttl: MINUTE }));
  expect([await next(watch), await next(watch)].map(brief)).toEqual([
    ["expired", short.token],
    ["claimed", after.token],
  ]);
  after.release();
  const again = won(ada.tryClaim(A, { ttl: MINUTE }));
  expect(watch.poll().map(brief)).toEqual([
    ["released", after.token],
    ["claimed", again.token],
  ]);
});

test("SIGKILL of the holder is reported at once as its death, before the next claim of any member", async () => {
  await using arena = Arena.open();
  const contest = await arena.contest();
  await using watch = contest.watch(A);
  for (const claims of [false, true]) {
    const holder = arena.contender("hold", 4_000);
    const claimed = await next(watch);
    expect(claimed).toMatchObject({ type: "claimed", holder: { pid: holder.pid } });
    const told = next(watch);
    const claim = claims ? contest.claim(A, { ttl: MINUTE }) : null;
    const killed = contest.now();
    await holder.kill();
    expect(brief(await told)).toEqual(["died", claimed.holder.token]);
    expect(contest.now() - killed).toBeLessThan(2_500); // not at its expiry
    if (claim) expect(brief(await next(watch))).toEqual(["claimed", (await claim).token]);
  }
}, 30_000);

test("a holder that leaves its fleet is reported as released; a released lease is not reported as a death", async () => {
  await using arena = Arena.open();
  const [fleet, contest] = [await arena.fleet(), await arena.contest()];
  const watch = contest.watch(A);
  const guard = won((await Contest.open({ fleet })).tryClaim(A, { ttl: MINUTE }));
  expect(brief(await next(watch))).toEqual(["claimed", guard.token]);
  const told = next(watch);
  await fleet.close();
  expect(brief(await told)).toEqual(["released", guard.token]);
  const child = arena.contender("obey");
  const { holder } = await next(watch);
  await child.line("claimed");
  child.process.kill("SIGUSR2");
  await child.line("released");
  await child.kill();
  expect(watch.poll().map(brief)).toEqual([["released", holder.token]]);
}, 30_000);

test("a thousand quick changes of another process: tokens rise, each claim ends before the next, and the last state is reported", async () => {
  await using arena = Arena.open();
  const watch = (await arena.contest()).watchAll();
  const child = arena.contender("quick");
  const told: LeaseChange[] = [];
  const last = Number((await child.line("last")).split(" ")[1]);
  do told.push(await next(watch));
  while (told.at(-1)!.holder.token < last);
  let holding = 0;
  for (const { type, holder } of told) {
    if (type === "claimed") expect([holding, holder.token > holding]).toEqual([0, true]);
    else expect([type, holder.token]).toEqual(["released", holding]);
    holding = type === "claimed" ? holder.token : 0;
  }
  expect(holding).toBe(last);
}, 30_000);

test("a watch that runs during changes misses no state that lasts", async () => {
  await using arena = Arena.open();
  const [ada, bob] = [await arena.contest(), await arena.contest()];
  const watch = bob.watch(A);
  for (let round = 0; round < 300; round++) {
    const claimed = next(watch);
    const guard = won(ada.tryClaim(A, { ttl: MINUTE }));
    expect(brief(await claimed)).toEqual(["claimed", guard.token]);
    const ended = next(watch);
    if (round % 2 === 0) await new Promise(setImmediate); // the watcher sleeps
    guard.release();
    expect(brief(await ended)).toEqual(["released", guard.token]);
  }
}, 30_000);

test("a slow reader has at most two changes of a subject waiting: the end of what it knew, and the newest claim", async () => {
  await using arena = Arena.open();
  const [ada, bob] = [await arena.contest(), await arena.contest()];
  const watch = bob.watchAll();
  const first = won(ada.tryClaim(A, { ttl: MINUTE }));
  expect(brief(await next(watch))).toEqual(["claimed", first.token]);
  first.release();
  for (let round = 0; round < 1_000; round++) won(ada.tryClaim(A, { ttl: MINUTE })).release();
  const newest = won(ada.tryClaim(A, { ttl: MINUTE }));
  newest.renew(2 * MINUTE);
  expect(watch.poll()).toMatchObject([
    { type: "released", holder: { token: first.token } },
    { type: "claimed", holder: newest.holder },
  ]);
  expect(watch.poll()).toEqual([]);
});

test("a lease that changes all the time leaves the event loop its turns", async () => {
  await using arena = Arena.open();
  const contest = await arena.contest();
  let guard = won(contest.tryClaim(A, { ttl: MINUTE }));
  let isTurned = false;
  setImmediate(() => (isTurned = true));
  let changes = 0;
  for await (const { type } of contest.watch(A)) {
    if (isTurned || ++changes === 10_000) break;
    if (type !== "claimed") continue;
    guard.release();
    guard = won(contest.tryClaim(A, { ttl: MINUTE }));
  }
  expect(changes).toBeLessThan(1_000);
});

test("the watch ends when its reader leaves the loop, or with the contest or the fleet; an abort rejects with its reason", async () => {
  await using arena = Arena.open();
  const [fleet, contest] = [await arena.fleet(), await arena.contest()];
  won(contest.tryClaim(A, { ttl: MINUTE }));
  const left = contest.watch(A);
  for await (const { type } of left) {
    expect(type).toBe("claimed");
    break;
  }
  expect([left.closed, await left.next()]).toEqual([true, DONE]);

  const aborter = new AbortController();
  const aborted = contest.watch(A, { signal: aborter.signal });
  await next(aborted);
  const waits = rejection(aborted.next());
  aborter.abort(new Error("enough"));
  expect([(await waits).message, aborted.closed, await aborted.next()]).toEqual(["enough", true, DONE]);
  expect(() => contest.watch(A, { signal: aborter.signal })).toThrow("enough");

  const other = (await Contest.open({ fleet })).watchAll();
  await next(other);
  const ended = other.next();
  await fleet.close();
  expect([await ended, other.closed, other.poll()]).toEqual([DONE, true, []]);

  const closing = contest.watchAll();
  await next(closing);
  const over = closing.next();
  await contest.close();
  expect([await over, closing.closed]).toEqual([DONE, true]);
  expect(() => contest.watch(A)).toThrow(ClosedError);
});

test("an observer can poll but not wait, and the error says so", async () => {
  await using arena = Arena.open();
  const contest = await arena.contest();
  await using observed = await Fleet.observe({ name: arena.name, directory: arena.directory });
  const observer = await Contest.open({ fleet: observed });
  const watch = observer.watch(A);
  expect(watch.poll()).toEqual([]);
  const guard = won(contest.tryClaim(A, { ttl: MINUTE }));
  expect(watch.poll()).toEqual([{ type: "claimed", holder: guard.holder }]);
  guard.release();
  expect(watch.poll().map(brief)).toEqual([["released", guard.token]]);
  const child = arena.contender("hold");
  await child.line("claimed");
  expect(watch.poll().length).toBe(1);
  await child.kill();
  await until(() => observer.holder(A) === null, "it is dead");
  expect(watch.poll().map(({ type }) => type)).toEqual(["died"]);
  const refused = await rejection(observer.watchAll().next());
  expect(refused).toBeInstanceOf(InvalidConfigError);
  expect(refused.message).toContain("An observer cannot wait for leases");
}, 30_000);

test("a lease whose expiry moved back is reported as renewed", () => {
  // No call of this library moves an expiry back, so the table is a fake: another clock or engine may do it.
  let expiresAt = 2_000;
  const leases = { isOpen: true, find: () => true, found: () => ({ subject: A, token: 7, expiresAt }) };
  const watch = new LeaseWatch({ leases } as never, A, null, () => {});
  expect(watch.poll().map(brief)).toEqual([["claimed", 7]]);
  for (expiresAt of [3_000, 1_000]) {
    expect(watch.poll()).toEqual([{ type: "renewed", holder: expect.objectContaining({ token: 7, expiresAt }) }]);
    expect(watch.poll()).toEqual([]);
  }
});

test("invalid subjects and unknown options are refused", async () => {
  await using arena = Arena.open();
  const contest = await arena.contest();
  expect(() => contest.watch({ kind: "", label: "a" })).toThrow(InvalidConfigError);
  expect(() => contest.watch(undefined as never)).toThrow(
    "subject is undefined; it must be an object { kind, label }.",
  );
  expect(() => contest.watchAll({ signals: null } as object)).toThrow("Did you mean signal?");
  expect(() => contest.watchAll({ signal: 1 } as never)).toThrow(InvalidConfigError);
});

test("a clock that fails ends the watch with that error", async () => {
  await using arena = Arena.open();
  let isBroken = false;
  const contest = await arena.contest({ now: () => (isBroken ? NaN : 1) });
  const watch = contest.watch(A);
  won(contest.tryClaim(A, { ttl: MINUTE }));
  await next(watch);
  isBroken = true;
  expect(await rejection(watch.next())).toBeInstanceOf(InvalidConfigError);
  expect(watch.closed).toBe(true);
});
