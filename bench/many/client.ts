/**
 * A client process of the suite `many`: `bun client.ts ROLE "WORKERS ADDRESS…"`. Connects to the workers and runs the orders of
 * its parent. The parent of `bun-ipc` has started its workers itself: a channel of Bun's ipc belongs to a parent and its child.
 */

import { SlotBus } from "../../src/index.ts";
import { measure, obey, type Outcome } from "../cells.ts";
import { cpuBetween, cpuOf } from "../cpu.ts";
import type { Call } from "../measure.ts";
import { connectSocket, start, Workspace } from "../systems.ts";
import { LATE_MS, type Late, lateOf, now } from "./late.ts";
import { SUBJECT } from "./worker.ts";

/** `late`: as `shared`, and reports late requests. */
export type Role = "owned" | "shared" | "late" | "unix-socket" | "bun-ipc" | "nats";

/** An outcome of the role `late`, with the requests that were late. */
export interface LateOutcome extends Outcome {
  late: Late[];
}

/** Sends each request to the next of several workers. */
function inTurn(calls: readonly Call[]): Call {
  let next = 0;
  return (body) => calls[next++ % calls.length]!(body);
}

async function openBus(role: Role, name: string, workers: number): Promise<SlotBus> {
  const bus = await (role === "owned" ? SlotBus.create({ name }) : SlotBus.connect({ name }));
  await bus.ready({ workers });
  return bus;
}

const late: Late[] = [];

function reportLate(bus: SlotBus): Call {
  return async (body) => {
    const sentAt = now();
    const { body: reply } = await bus.request({ path: "/echo", body });
    const answeredAt = now();
    if (answeredAt - sentAt > LATE_MS) late.push(lateOf(reply, sentAt, answeredAt));
    return reply.subarray(0, body.length);
  };
}

/** Returns the call, and the processes that this one has started to respond. */
async function connect(
  role: Role,
  workers: number,
  addresses: string[],
  workspace: Workspace,
): Promise<{ call: Call; pids: number[] }> {
  const [address = ""] = addresses;
  switch (role) {
    case "owned":
    case "shared": {
      const bus = await openBus(role, address, workers);
      return { call: (body) => bus.request({ path: "/echo", body }), pids: [] };
    }
    case "late":
      return { call: reportLate(await openBus(role, address, workers)), pids: [] };
    case "unix-socket": {
      const sockets = await Promise.all(addresses.map(connectSocket));
      return { call: inTurn(sockets.map(({ call }) => call)), pids: [] };
    }
    case "bun-ipc": {
      const children = await Promise.all(Array.from({ length: workers }, () => start("bun-ipc", workspace)));
      return { call: inTurn(children.map(({ call }) => call)), pids: children.map((it) => it.answerer.pid) };
    }
    case "nats": {
      const { connect: join } = await import("@nats-io/transport-node");
      const connection = await join({ servers: address });
      return { call: async (body) => (await connection.request(SUBJECT, body, { timeout: 30_000 })).data, pids: [] };
    }
  }
}

if (import.meta.main) {
  const [role, text = ""] = process.argv.slice(2);
  const [workers, ...addresses] = text.split(" ");
  const workspace = new Workspace();
  const { call, pids } = await connect(role as Role, Number(workers), addresses, workspace);
  const own = [process.pid, ...pids];
  obey(workspace, async (order): Promise<LateOutcome> => {
    const before = cpuOf(own);
    const { latencies, seconds } = await measure(call, order);
    return { latencies, seconds, cpu: cpuBetween(before, cpuOf(own)), late: late.splice(0) };
  });
}
