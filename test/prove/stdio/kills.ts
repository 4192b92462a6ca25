/**
 * Kills workers of a stdio bus under load. Half of the requests come from callers in the process of the bus, half from
 * clients of its socket, which would see a second response. The workers keep a journal outside the bus; in the end it is
 * compared with the result of each caller.
 *
 *     bun test/prove/stdio/kills.ts [test | ci | quick | long]
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WorkerDiedError } from "../../../src/errors.ts";
import { StdioBus } from "../../../src/stdio/bus.ts";
import { figures, finish, problem, say, sized } from "./report.ts";

const WORKERS = 4;
const CALLERS = 24;
const CLIENTS = 6;
/** Requests of one client that are under way. */
const WINDOW = 8;
/** Longest time from a kill to the answer of all that the worker had, in ms; on a busy machine. */
const SETTLE_MS = 5_000;

/** Time of the run, in ms. On a busy machine it lasts until it has enough kills, up to {@link MOST_MS}. */
const forMs = sized(2_000, 9_000, 60_000, 1_800_000);
const MOST_MS = 8 * forMs;
/** Least number of kills. */
const KILLS = sized(10, 50, 300, 5_000);
/** Least number of answers for each request whose worker ended. */
const ANSWERS = 10;
const folder = mkdtempSync(join(tmpdir(), "slotbus-stdio-"));
const journal = join(folder, "journal");

/** One request, and the result that its caller got. */
interface Entry {
  readonly isIdempotent: boolean;
  readonly text: string;
  answers: number;
  /** Pid of the worker that responded. `null`: none yet, or the caller got the error that the worker has ended. */
  pid: number | null;
}
const book: Entry[] = [];
const told = { answers: 0, exits: 0 };

function enter(isIdempotent: boolean): number {
  const id = book.length;
  book.push({ isIdempotent, text: `ä${id}`.repeat(id % 50), answers: 0, pid: null });
  return id;
}

/** Records the result that a caller got; `null`: the error that the worker has ended. */
function settle(id: number, answer: { id: number; pid: number; text: string } | null): void {
  const entry = book[id]!;
  if (++entry.answers > 1) problem("doubled", `request ${id} was answered again`);
  if (answer === null) {
    told.exits++;
    return;
  }
  told.answers++;
  entry.pid = answer.pid;
  if (answer.id !== id || answer.text !== entry.text)
    problem("misdelivered", `request ${id} got the answer of ${answer.id}`);
}

const bus = await StdioBus.start({
  pools: [
    {
      id: "a",
      command: process.execPath,
      args: [join(import.meta.dir, "worker.ts"), journal],
      instances: WORKERS,
      ready: true,
      restart: { maxRestarts: Infinity, backoff: { initial: 1, max: 20 } },
    },
  ],
  concurrency: 16,
  queue: { limit: 10_000 },
});
const began = performance.now();
const killed = new Set<number>();
function isOver(): boolean {
  const past = performance.now() - began;
  return past > MOST_MS || (past > forMs && killed.size >= KILLS);
}
const paramsOf = (id: number): object => ({ id, ms: id % 3, text: book[id]!.text });

async function call(): Promise<void> {
  for (let n = 0; !isOver(); n++) {
    const id = enter(n % 2 === 0);
    const key = n % 3 === 0 ? `${id % 50}` : undefined;
    try {
      settle(id, await bus.request("work", paramsOf(id), { idempotent: n % 2 === 0, key, timeout: SETTLE_MS }));
    } catch (error) {
      if (!(error instanceof WorkerDiedError)) problem("lost", `request ${id}: ${(error as Error).message}`);
      settle(id, null);
    }
  }
}

/** Ids are small numbers, the same for all clients, and used again. */
function ask(path: string): Promise<void> {
  const { promise, resolve: done } = Promise.withResolvers<void>();
  const open = new Map<number, number>();
  const socket = connect(path);
  let rest = "";
  const next = (id: number): void => {
    if (isOver()) {
      if (open.size === 0) socket.end();
      return;
    }
    const request = enter(false);
    open.set(id, request);
    socket.write(`${JSON.stringify({ jsonrpc: "2.0", id, method: "work", params: paramsOf(request) })}\n`);
  };
  socket.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const { id, result, error } = JSON.parse(line);
      const request = open.get(id);
      if (request === undefined) {
        problem("doubled", `a client was answered a request that it has not: ${line.slice(0, 80)}`);
        continue;
      }
      open.delete(id);
      if (error && error.data?.code !== "WORKER_DIED") problem("lost", `request ${request}: ${error.message}`);
      settle(request, error ? null : result);
      next(id);
    }
  });
  const hangs = setTimeout(() => socket.destroy(), MOST_MS + 2 * SETTLE_MS);
  socket.on("close", () => {
    clearTimeout(hangs);
    for (const request of open.values()) problem("lost", `request ${request} of a client was never answered`);
    done();
  });
  for (let id = 0; id < WINDOW; id++) next(id);
  return promise;
}

async function kill(): Promise<void> {
  while (!isOver()) {
    await Bun.sleep(Math.random() * 40);
    if (told.answers < 2 * ANSWERS * told.exits) continue; // on a busy machine, workers that start would only be killed
    const workers = bus.stats().workers.filter(({ pid }) => !killed.has(pid));
    const victim = workers[Math.floor(Math.random() * workers.length)];
    if (!victim) continue;
    process.kill(victim.pid, "SIGKILL");
    killed.add(victim.pid);
  }
}

const path = join(folder, "socket");
await bus.serve({ unix: path });
await Promise.all([
  ...Array.from({ length: CALLERS }, call),
  ...Array.from({ length: CLIENTS }, () => ask(path)),
  kill(),
]);
figures.kills = killed.size;
const isBack = (): boolean =>
  bus.workers.length === WORKERS && bus.stats().workers.every(({ pid }) => !killed.has(pid));
for (const from = performance.now(); !isBack() && performance.now() - from < SETTLE_MS;) await Bun.sleep(5);
const stats = bus.stats();
if (stats.workerRestarts !== figures.kills) {
  problem("lost", `${figures.kills} workers were killed and ${stats.workerRestarts} started again`);
}
if (stats.inFlight + stats.waiting > 0)
  problem("leaked", `${stats.inFlight} in flight, ${stats.waiting} waiting, of none`);
await bus.close();

// ---- the audit ---------------------------------------------------------------------------------------------------------

const begun = new Map<number, number>();
const ended = new Map<number, number[]>();
for (const line of readFileSync(journal, "latin1").split("\n")) {
  const [what, id, pid] = line.split(" ");
  if (what === "b") begun.set(Number(id), (begun.get(Number(id)) ?? 0) + 1);
  if (what === "e") ended.set(Number(id), [...(ended.get(Number(id)) ?? []), Number(pid)]);
}
let unsent = 0;
let again = 0;
for (const [id, { isIdempotent, answers, pid }] of book.entries()) {
  const runs = begun.get(id) ?? 0;
  if (answers === 0) problem("lost", `request ${id} was never answered`);
  if (runs > (isIdempotent ? 2 : 1)) problem("doubled", `request ${id} ran ${runs} times`);
  if (pid !== null && !ended.get(id)?.includes(pid))
    problem("misdelivered", `request ${id} was not answered by ${pid}`);
  if (runs === 0) unsent++;
  if (runs > 1) again++;
}
figures.requests = book.length;
say(
  `${book.length} requests, ${told.answers} answered, ${told.exits} told that their worker has ended (${unsent} never ran), ` +
    `${again} ran twice; ${figures.kills} kills, ${stats.workerRestarts} restarts, ${stats.protocolErrors} lines were none`,
);
if (figures.kills < KILLS) problem("lost", `only ${figures.kills} kills: this proves nothing`);
if (told.answers < ANSWERS * told.exits) problem("lost", "too few answers: this proves nothing");
rmSync(folder, { recursive: true });
finish();
