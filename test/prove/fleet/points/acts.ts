/** What makes the labels be passed. Each act leaves victim and witness members that hold nothing, unless they have ended. */

import { until } from "../../../support.ts";
import { PATIENCE_MS } from "../../points/actor.ts";
import type { Fault } from "../../points/labels.ts";
import type { Subject } from "./books.ts";
import type { Actor, Cast } from "./cast.ts";
import type { Act, FleetPoint } from "./labels.ts";
import type { Order, Result } from "./talk.ts";

/** How a join is to be: in vain when its system call fails. `files` are then there. */
export type Rejoin = (actor: Actor, files: number) => Promise<void>;

type Play = (cast: Cast, point: FleetPoint, rejoin: Rejoin) => Promise<void>;

/** Longest that a lock is withheld from the victim. */
const HELD_MS = 200;
/** By then those who have nothing to do sleep. */
const ASLEEP_MS = 5;
const MINE: readonly Subject[] = ["first", "second"];

const publish = (count: number): Order => ({ do: "publish", count, paced: true });

async function claims(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  await cast.done(victim, { do: "claim", subject: "hot" });
  const waited = cast.done(witness, { do: "wait", subject: "hot" });
  for (const subject of MINE) {
    for (const what of ["claim", "renew", "release"] as const) await cast.done(victim, { do: what, subject });
  }
  await cast.done(victim, { do: "renew", subject: "hot" });
  await cast.done(victim, { do: "release", subject: "hot" });
  await waited;
  await cast.done(witness, { do: "release", subject: "hot" });
}

/** The victim ends the tenure of a helper that lives, so the witness hears of no death but by the table. */
async function seize(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  const holder = await cast.enlist();
  await cast.done(holder, { do: "claim", subject: "hot" });
  const waited = cast.done(witness, { do: "wait", subject: "hot" });
  await Bun.sleep(ASLEEP_MS);
  await cast.done(victim, { do: "seize", subject: "hot" });
  const held = await cast.done(holder, { do: "holder", subject: "hot" });
  if (held?.holder === holder.pid) await cast.done(holder, { do: "release", subject: "hot" });
  await waited;
  await cast.done(witness, { do: "release", subject: "hot" });
  await cast.dismiss(holder);
}

async function wait(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  await cast.done(witness, { do: "claim", subject: "hot" });
  const waited = cast.done(victim, { do: "wait", subject: "hot" });
  await Bun.sleep(ASLEEP_MS);
  await cast.done(witness, { do: "release", subject: "hot" });
  await waited;
  await cast.done(victim, { do: "release", subject: "hot" });
}

/** One use of the lock of the ring, or of that of the leases. */
async function use(cast: Cast, actor: Actor, isLease: boolean, subject: Subject): Promise<void> {
  if (!isLease) return void (await cast.done(actor, { do: "publish", count: 1, paced: false }));
  await cast.done(actor, { do: "claim", subject });
  await cast.done(actor, { do: "release", subject });
}

/** A helper that meets a fault of its own while it has a lock. */
async function afflicted(cast: Cast, isLease: boolean, fault: Fault, label?: string): Promise<Actor> {
  const helper = await cast.enlist();
  helper.page.arm(label ?? (isLease ? "lease.entry.emptied" : "ring.frame.filled"), fault, 1);
  helper.condemned = fault === "kill";
  return helper;
}

async function contend(cast: Cast): Promise<void> {
  const { victim } = cast;
  const isLease = cast.books.events % 2 === 0;
  const helper = await afflicted(cast, isLease, "stop");
  const held = use(cast, helper, isLease, "third");
  await until(() => helper.state === "T", "the helper is stopped", PATIENCE_MS);
  const wanted = use(cast, victim, isLease, "first");
  await until(() => victim.page.hit, "", HELD_MS).catch(() => {}); // it was not passed often enough
  helper.process.kill("SIGCONT");
  await Promise.all([held, wanted]);
  await cast.dismiss(helper);
}

/** Kills a helper that has the lock. */
async function breakLock(cast: Cast, isLease: boolean, label?: string): Promise<void> {
  const helper = await afflicted(cast, isLease, "kill", label);
  await use(cast, helper, isLease, "third");
  await until(() => helper.gone, "the helper has ended", PATIENCE_MS);
  cast.forget(helper);
  cast.deaths++;
}

async function repair(cast: Cast, { label }: FleetPoint): Promise<void> {
  const isLease = label.startsWith("lease.");
  await breakLock(cast, isLease);
  await use(cast, cast.victim, isLease, "first");
}

/** The witness is stopped meanwhile: only the victim can come upon the lock. */
async function takeOver(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  await Bun.sleep(ASLEEP_MS);
  witness.process.kill("SIGSTOP");
  try {
    await until(() => witness.state === "T", "the witness is stopped", PATIENCE_MS);
    await breakLock(cast, false, "ring.publish.woken");
    await until(() => victim.page.hit || !cast.file.locks.ring, "the lock is taken over", PATIENCE_MS);
  } finally {
    witness.process.kill("SIGCONT");
  }
}

/** The helper gets the index that the victim had, and then has again. */
async function adopt(cast: Cast, { label }: FleetPoint): Promise<void> {
  const { victim } = cast;
  await cast.leave(victim);
  const isLease = label.startsWith("lease.");
  await breakLock(cast, isLease);
  await cast.joined(victim);
  await use(cast, cast.witness, isLease, "second"); // it does not take the lock for one that the victim has
}

async function joinAgain(cast: Cast, _: FleetPoint, rejoin: Rejoin): Promise<void> {
  const { victim } = cast;
  await cast.leave(victim);
  await rejoin(victim, 1);
}

async function hear(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  await cast.leave(victim);
  await cast.joined(victim);
  await cast.done(witness, publish(2));
}

async function create(cast: Cast, _: FleetPoint, rejoin: Rejoin): Promise<void> {
  const { victim, witness } = cast;
  await cast.leave(witness);
  await cast.leave(victim);
  await rejoin(victim, 0);
  await cast.joined(witness);
}

async function orphan(cast: Cast, _: FleetPoint, rejoin: Rejoin): Promise<void> {
  const { victim, witness } = cast;
  const helper = await cast.enlist();
  await cast.leave(witness);
  await cast.leave(victim);
  helper.kill();
  await until(() => helper.gone, "the helper has ended", PATIENCE_MS);
  cast.forget(helper);
  await rejoin(victim, 1);
  await cast.joined(witness);
}

async function leave(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  await cast.done(victim, { do: "claim", subject: "hot" });
  const waited = cast.done(witness, { do: "wait", subject: "hot" });
  await cast.leave(victim);
  await waited;
  await cast.done(witness, { do: "release", subject: "hot" });
  await cast.joined(victim);
}

async function leaveLast(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  await cast.leave(witness);
  await cast.leave(victim);
  await cast.joined(victim);
  await cast.joined(witness);
}

async function reset(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  await cast.leave(witness);
  for (const subject of MINE) await cast.done(victim, { do: "claim", subject });
  await cast.done(victim, { do: "reset" });
  await cast.joined(witness);
}

/** The victim begins the next epoch of memory that all have left; the witness comes to it then. */
async function renew(cast: Cast): Promise<void> {
  const { victim, witness } = cast;
  const made = await cast.done(witness, { do: "memory", how: "make" });
  await cast.done(victim, { do: "memory", how: "open", path: `/proc/${witness.pid}/fd/${made?.fd}` });
  const first = await cast.done(victim, { do: "memory", how: "join" });
  await cast.done(victim, { do: "memory", how: "leave" });
  let isOver = false;
  const renewed = cast.done(victim, { do: "memory", how: "join" }).finally(() => {
    isOver = true;
  });
  await until(() => victim.page.hit || isOver, "the memory is renewed", PATIENCE_MS);
  const came = cast.done(witness, { do: "memory", how: "join" });
  compare(cast, first, await renewed, await came);
  for (const actor of [victim, witness]) await cast.done(actor, { do: "memory", how: "close" });
}

/** Of the first epoch, of the next as the victim began it, and as the witness found it. A victim that was killed saw none. */
function compare(cast: Cast, first: Result | null, begun: Result | null, found: Result | null): void {
  if (found?.epoch === undefined) return cast.problem("a fleet in memory was not joined");
  if (first && found.epoch <= first.epoch!) cast.problem(`epoch ${found.epoch} came after ${first.epoch}`);
  if (begun && begun.epoch !== found.epoch) cast.problem(`epochs ${begun.epoch} and ${found.epoch} are there at once`);
  const later = begun ? [begun, found] : [found];
  const heads = later.map(({ head }) => head!).toSorted((a, b) => a - b);
  if (heads.join() !== (begun ? "0,1" : "0")) cast.problem(`the ring of a new epoch began at ${heads.join()}`);
  const tokens = later.map(({ token }) => token!);
  const isRising = (first?.token ?? 0) < Math.min(...tokens) && new Set(tokens).size === tokens.length;
  if (!isRising) cast.problem(`tokens ${tokens.join()} came after ${first?.token}`);
}

const plays: Record<Act, Play> = {
  publish: async (cast) => void (await cast.done(cast.victim, publish(6))),
  crowd: async (cast) => {
    await Promise.all([cast.done(cast.victim, publish(6)), cast.done(cast.witness, publish(3))]);
  },
  park: async (cast) => void (await cast.done(cast.witness, publish(6))),
  claims,
  seize,
  wait,
  contend,
  repair,
  takeover: takeOver,
  adopt,
  join: joinAgain,
  hear,
  create,
  orphan,
  leave,
  last: leaveLast,
  reset,
  memory: renew,
};

/** Acts that need a helper, or an end of the whole fleet, each time. */
export const COSTLY: ReadonlySet<Act> = new Set([
  "seize",
  "contend",
  "repair",
  "takeover",
  "adopt",
  "orphan",
  "create",
  "last",
]);

export function play(cast: Cast, point: FleetPoint, rejoin: Rejoin): Promise<void> {
  return plays[point.act](cast, point, rejoin);
}
