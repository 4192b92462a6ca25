/** The contestants of the suite `many`: client processes and worker processes of one system that work together. */

import { join } from "node:path";
import { type Cell, type Order, type Outcome, startCell, together } from "../cells.ts";
import { cpuBetween, cpuOf } from "../cpu.ts";
import { type Server, startServer } from "../servers.ts";
import type { Peer, Workspace } from "../systems.ts";
import type { LateOutcome, Role } from "./client.ts";
import type { Command } from "./worker.ts";

/** Names in the JSON. */
export const SYSTEMS = ["slotbus", "unix-socket", "bun-ipc", "nats"] as const;

export type SystemName = (typeof SYSTEMS)[number];

/** Client processes, and as many worker processes. */
export const PROCESSES = 4;

const client = { program: Bun.resolveSync("./client", import.meta.dir) };
const worker = { program: Bun.resolveSync("./worker", import.meta.dir) };

const times = <T>(count: number, make: (index: number) => T): Promise<Awaited<T>[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => make(index)));

/** Clients and workers that are connected. */
export class Team<S extends string = string> {
  readonly name: S;
  /** Number of client processes. */
  readonly clients: number;
  readonly #cells: Cell[];
  /** Processes whose CPU time the cells do not report. */
  readonly #others: number[];
  readonly #stops: { stop(): Promise<void> }[];

  constructor(name: S, cells: Cell[], others: Peer[], server: Server | null = null) {
    this.name = name;
    this.clients = cells.length;
    this.#cells = cells;
    this.#others = others.map(({ introduction }) => introduction.pid).concat(server ? [server.pid] : []);
    this.#stops = [...cells, ...others, ...(server ? [server] : [])];
  }

  /** All clients run the order at once. */
  async measure(order: Order): Promise<Outcome> {
    const before = cpuOf(this.#others);
    const outcomes = await Promise.all(this.#cells.map((cell) => cell.measure(order)));
    const cpu = cpuBetween(before, cpuOf(this.#others));
    return together([...outcomes, { latencies: new Float64Array(0), seconds: 0, cpu }]);
  }

  /** Runs 32 requests in flight for each of {@link PROCESSES} clients, or one at a time: first for `leadInMs`, then for `ms`. */
  async closed(inFlight: number, leadInMs: number, ms: number): Promise<Outcome> {
    await this.measure({ case: "closed", inFlight, leadInMs: 0, ms: leadInMs });
    return this.measure({ case: "closed", inFlight, leadInMs: 0, ms });
  }

  async stop(): Promise<void> {
    for (const it of this.#stops) await it.stop();
  }
}

const cells = (workspace: Workspace, role: Role, count: number, address: string): Promise<Cell[]> =>
  times(count, () => startCell(workspace, role, address, client));

/** One client and one worker: the client owns the bus, or is the only one of a shared bus. */
export async function startPair<S extends "owned" | "shared">(
  role: S,
  name: string,
  workspace: Workspace,
): Promise<Team<S>> {
  const [own, peers] = await Promise.all([
    cells(workspace, role, 1, `1 ${name}`),
    times(1, () => workspace.start("slotbus", name)),
  ]);
  return new Team(role, own, peers);
}

/** Starts a system with {@link PROCESSES} clients and as many workers. `bun-ipc` has one client, because it can have no more. */
export async function startTeam(system: SystemName, workspace: Workspace): Promise<Team<SystemName>> {
  switch (system) {
    case "slotbus": {
      const [own, peers] = await Promise.all([
        cells(workspace, "shared", PROCESSES, `${PROCESSES} many`),
        times(PROCESSES, () => workspace.start("slotbus", "many")),
      ]);
      return new Team(system, own, peers);
    }
    case "unix-socket": {
      const paths = Array.from({ length: PROCESSES }, (_, index) => join(workspace.path, `many-${index}.sock`));
      const peers = await Promise.all(paths.map((path) => workspace.start("unix-socket", path)));
      return new Team(system, await cells(workspace, system, PROCESSES, `${PROCESSES} ${paths.join(" ")}`), peers);
    }
    case "bun-ipc":
      return new Team(system, await cells(workspace, system, 1, `${PROCESSES}`), []);
    case "nats": {
      const server = await startServer("nats", workspace);
      const peers = await times(PROCESSES, () => workspace.start("nats", server.address, worker));
      const own = await cells(workspace, system, PROCESSES, `${PROCESSES} ${server.address}`);
      return new Team(system, own, peers, server);
    }
  }
}

/** What a round beside a worker that may block returns. */
export type BlockedRound = Outcome & Pick<LateOutcome, "late"> & { blocks: number[] };

/** Clients and workers of slotbus; the first worker blocks its event loop on command. */
export interface BlockedTeam {
  /** Offers `perSecond` requests from each client. Every `everyMs` the worker blocks, unless this is `null`. */
  round(perSecond: number, ms: number, everyMs: number | null): Promise<BlockedRound>;
  stop(): Promise<void>;
}

export async function startBlocked(workspace: Workspace): Promise<BlockedTeam> {
  let reported: ((blocks: number[]) => void) | null = null;
  const options = { ...worker, onMessage: (blocks: unknown) => reported?.(blocks as number[]) };
  const [own, peers] = await Promise.all([
    times(PROCESSES, () => startCell<LateOutcome>(workspace, "late", `${PROCESSES} blocked`, client)),
    times(PROCESSES, (index) => workspace.start("blocking", `blocked ${index}`, options)),
  ]);
  const [first] = peers;
  const tell = (command: Command): void => first!.send(command);
  return {
    round: async (perSecond, ms, everyMs) => {
      const timer = everyMs === null ? undefined : setInterval(() => tell("block"), everyMs);
      const outcomes = await Promise.all(own.map((it) => it.measure({ case: "offered", perSecond, ms })));
      clearInterval(timer);
      const { promise, resolve } = Promise.withResolvers<number[]>();
      reported = resolve;
      tell("report");
      return { ...together(outcomes), late: outcomes.flatMap(({ late }) => late), blocks: await promise };
    },
    stop: async () => {
      for (const it of [...own, ...peers]) await it.stop();
    },
  };
}
