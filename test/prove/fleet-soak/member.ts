/**
 * `fleet-soak/member.ts NAME BOOKS LIFE [ORDER...]`: a member of a fleet. It executes orders, which are JSON, first from
 * its arguments, then from messages. It responds to each order when the work is done or has begun. The books record under its
 * life what it did.
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { Contest } from "../../../src/contest/index.ts";
import { type EventBus, Fleet } from "../../../src/events/index.ts";
import { until } from "../../support.ts";
import * as memory from "../memory.ts";
import { Random } from "../soak/request-books.ts";
import { FleetBooks } from "./fleet-books.ts";
import { type HoldOrder, Holding } from "./holder.ts";
import { GEOMETRY, openBuses } from "./payloads.ts";
import { Reader, type ReaderReport, type ReadOrder } from "./reader.ts";
import { Writer, type WriteOrder } from "./writer.ts";

export type Order =
  /** Joins the fleet, or creates it with {@link GEOMETRY}. Must be the first order. */
  | { do: "join" }
  /** Publishes `count` events into a ring at once. */
  | { do: "publish"; ring: number; count: number }
  /** Publishes at random from now on. */
  | ({ do: "write" } & WriteOrder)
  /** Is a subscriber from now on. */
  | ({ do: "read" } & ReadOrder)
  /** Claims, or waits, at random from now on. */
  | ({ do: "hold" } & HoldOrder)
  /** One attempt; `wait`: until it has the subject. */
  | { do: "claim"; subject: number; ttl: number; wait?: boolean }
  | { do: "renew" | "release" | "touch"; subject: number }
  /** Responds when it has stopped starting work. The books' `hurry` must be set. */
  | { do: "quiet" }
  /** Answers with what it has. */
  | { do: "count" }
  /** Ends what runs, leaves the fleet and ends. */
  | { do: "end" };

export interface Count extends memory.Counted {
  members: number;
  /** Leases that somebody holds. */
  leases: number;
  readers: ReaderReport[];
}

export type Report =
  /** `ok`: what the step returned; `true` for what has none. */
  | { is: "did"; what: Order["do"]; ok: boolean }
  | { is: "joined"; epoch: number; index: number }
  | { is: "quiet" }
  | Count;

const [name, directory, number, ...args] = process.argv.slice(2);
const life = Number(number);
const books = new FleetBooks(directory!);
const random = new Random(life * 7_919 + 1);
const readers: Reader[] = [];
const held = new Map<number, NonNullable<ReturnType<Holding["tryClaim"]>>>();
let fleet: Fleet;
let contest: Contest;
let buses: ReadonlyMap<number, EventBus>;
let writer: Writer;
let holding: Holding;
let isEnding = false;

const say = (report: Report): void => void process.send?.(report);
const problem = (what: string): void => void process.send?.({ is: "broken", what });

function busOf(ring: number): EventBus {
  return buses.get(ring)!;
}

async function joinFleet(): Promise<void> {
  books.doing(life, "joining");
  const control = join(directory!, "control");
  if (existsSync(control)) {
    const greet = { open: (it: Bun.Socket): void => void it.write(`${life} `), data() {} };
    await Bun.connect({ unix: control, socket: greet });
  }
  fleet = await Fleet.join({ name: name!, ...GEOMETRY });
  books.join(life, fleet.epoch, fleet.index, fleet.incarnation);
  buses = await openBuses(fleet);
  contest = await Contest.open({ fleet });
  writer = new Writer(fleet, books, life, busOf);
  holding = new Holding(contest, books, life, problem);
  setInterval(() => readers.forEach((reader) => reader.tell()), 10);
  books.doing(life, "idle");
  say({ is: "joined", epoch: fleet.epoch, index: fleet.index });
}

function read(order: ReadOrder): void {
  const reader = new Reader(fleet, books, life, busOf, order, problem);
  readers.push(reader);
  const again = (): void => {
    readers.splice(readers.indexOf(reader), 1);
    const { from: _, ...fresh } = order;
    if (!isEnding) read(fresh);
  };
  fails(reader.run().then(again));
}

/** What runs on its own ends the process when it fails: the harness says so. */
function fails(running: Promise<void>): void {
  running.catch((error) => {
    if (isEnding) return;
    problem(`life ${life} (pid ${process.pid}): ${error instanceof Error ? error.stack : error}`);
  });
}

function count(): Count {
  return {
    ...memory.count(),
    members: fleet.members().length,
    leases: contest.list().length,
    readers: readers.map((reader) => reader.report),
  };
}

async function claim({ subject, ttl, wait }: Extract<Order, { do: "claim" }>): Promise<boolean> {
  const got = wait ? await holding.claim(subject, ttl) : holding.tryClaim(subject, ttl);
  if (got) held.set(subject, got);
  return got !== null;
}

function step(order: Extract<Order, { subject: number }>): boolean | Promise<boolean> {
  if (order.do === "claim") return claim(order);
  const mine = held.get(order.subject);
  if (!mine) return false;
  if (order.do === "renew") return holding.renew(mine);
  if (order.do === "touch") return holding.write(mine);
  held.delete(order.subject);
  return holding.release(mine);
}

async function end(): Promise<void> {
  isEnding = true;
  writer.stop();
  holding.stop();
  await until(() => holding.isQuiet, "nothing is held", 10_000);
  for (const reader of readers) reader.close();
  await fleet.close();
  process.exit(0);
}

async function obey(order: Order): Promise<void> {
  if (order.do === "join") return joinFleet();
  if (order.do === "end") return end();
  if (order.do === "count") return say(count());
  if (order.do === "quiet") {
    await until(() => holding.isQuiet, "nothing is held and nothing waits", 30_000);
    return say({ is: "quiet" });
  }
  let ok = true;
  if (order.do === "publish") {
    for (let left = order.count; left > 0; left--) ok = writer.publish(order.ring) && ok;
  } else if (order.do === "write") fails(writer.run(order, random));
  else if (order.do === "read") read(order);
  else if (order.do === "hold") fails(holding.run(order, random));
  else ok = await step(order);
  say({ is: "did", what: order.do, ok });
}

process.on("disconnect", () => process.exit(0));
process.on("message", (order: Order) => fails(obey(order)));
for (const order of args) await obey(JSON.parse(order) as Order);
process.send?.({ is: "loaded" });
