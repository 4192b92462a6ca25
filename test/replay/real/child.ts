/** `child.ts`: a client or a worker of one real world after another, as the stage orders. */

import { NameLock } from "../../../src/native/name.ts";
import { resolveDirectory } from "../../../src/runtime-directory.ts";
import { descriptors, mappings, until } from "../../support.ts";
import { stacks } from "../worlds.ts";
import { ClientWorld } from "./client.ts";
import type { Judged, Order, Report } from "./orders.ts";
import { WorkerWorld } from "./worker.ts";

/** Longest time until the memory of a closed bus is unmapped, in ms. */
const FREE_MS = 10_000;

let client: ClientWorld | null = null;
let worker: WorkerWorld | null = null;
/** Open descriptors after the first world of each role. */
const baseline = new Map<string, number>();
/** Errors that nobody handled. */
const unhandled: unknown[] = [];

function say(report: Report): void {
  process.send!(report);
}

/** Says how the world was, and adds what this process did not give back. */
async function end(judged: Judged): Promise<void> {
  const role = client ? "client" : "worker";
  client = worker = null;
  await until(() => mappings() === 0, "no region is mapped", FREE_MS).catch((error) => unhandled.push(error));
  const most = baseline.get(role) ?? descriptors();
  baseline.set(role, most);
  await until(() => descriptors() <= most, `no more than ${most} descriptors`, FREE_MS).catch((error) => {
    unhandled.push(`${error}, but ${descriptors()}`);
  });
  const [reason] = unhandled.splice(0);
  const failure =
    judged.failure ?? (reason === undefined ? null : `not handled in the ${role}: ${Bun.inspect(reason)}`);
  say({ ...judged, failure });
}

async function obey(order: Order): Promise<void> {
  if (order.do === "call") {
    const lock = await NameLock.own(resolveDirectory(undefined), order.name, false);
    client = new ClientWorld(order, lock, say);
    await client.act();
    say({ is: "rest" });
  } else if (order.do === "work") worker = new WorkerWorld(order, order.worker);
  else if (order.do === "know") client!.know(order.worker, order.pid);
  else if (order.do === "close") await end(await worker!.close(order.ms));
  else await end(client!.judge());
}

Error.stackTraceLimit = stacks.limit;
process.on("unhandledRejection", (reason) => unhandled.push(reason));
process.on("uncaughtException", (error) => unhandled.push(error));
process.on("disconnect", () => process.exit(0));
process.on("message", (order: Order) => {
  obey(order).catch((error) => say({ is: "broken", what: `order ${order.do}: ${Bun.inspect(error)}` }));
});
say({ is: "loaded" });
