/** Faults in large numbers on a bus over NATS, with books that do not trust the bus: what was sent, what ran, what came back. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type PortableBus, SlotBus, type SlotbusError } from "../../src/index.ts";
import { nats } from "../../src/nats/index.ts";
import type { NatsServer } from "../nats-server.ts";
import { expect, note, Program } from "./checks.ts";
import { Proxy } from "./nats-proxy.ts";

const WORKERS = 3;
const CALLERS = 16;

/** What came of the requests, and the file in which the workers write what they run. */
export class Books implements Disposable {
  sent = 0;
  settled = 0;
  answered = 0;
  /** Numbers of the requests that, as their errors say, did not run, and of those that may run twice. */
  readonly notExecuted: number[] = [];
  readonly repeatable = new Set<number>();
  readonly foreign: string[] = [];
  readonly codes = new Map<string, number>();
  readonly #folder = mkdtempSync(join(tmpdir(), "slotbus-books-"));
  readonly ledger = join(this.#folder, "ledger");

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Expects that all requests settled, none ran twice, no answer is foreign, and no error denies what ran. */
  audit(): void {
    const times = new Map<number, number>();
    for (const line of readFileSync(this.ledger, "utf8").trim().split("\n"))
      times.set(Number(line), (times.get(Number(line)) ?? 0) + 1);
    const twice = [...times].filter(([number, n]) => n > 1 && !this.repeatable.has(number)).map(([number]) => number);
    const lies = this.notExecuted.filter((number) => times.has(number));
    const codes = [...this.codes].map(([code, n]) => `${n} ${code}`).join(", ");
    note(`${this.sent} requests, ${this.answered} answered, ${codes}`);
    expect(this.settled === this.sent, `${this.sent - this.settled} requests did not settle`);
    expect(this.foreign.length === 0, `foreign answers: ${this.foreign.slice(0, 5).join("; ")}`);
    expect(twice.length === 0, `ran twice: ${twice.slice(0, 5).join(", ")}`);
    expect(lies.length === 0, `ran, although their errors say that they did not: ${lies.slice(0, 5).join(", ")}`);
  }
}

/** Sends numbered requests one after another until `isOver`. Some give up early, some may run twice. */
export async function call(bus: PortableBus, books: Books, isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    const number = ++books.sent;
    const idempotent = number % 3 === 0;
    if (idempotent) books.repeatable.add(number);
    const abort = new AbortController();
    if (number % 7 === 0) setTimeout(() => abort.abort(new Error("gave up")), number % 5);
    const timeout = number % 11 === 0 ? 1 + (number % 4) : 30_000;
    const options = { idempotent, signal: abort.signal, timeout, waitForWorker: number % 13 !== 0 };
    try {
      const answer = (await bus.request({ path: "/run", query: String(number) }, options)).text();
      books.answered++;
      if (answer !== String(number)) books.foreign.push(`${number} got ${answer}`);
    } catch (error) {
      const { code = (error as Error).message, mayHaveExecuted } = error as SlotbusError;
      books.codes.set(code, (books.codes.get(code) ?? 0) + 1);
      if (mayHaveExecuted === false) books.notExecuted.push(number);
      if (code === "NO_WORKER") await Bun.sleep(1);
    }
    books.settled++;
  }
}

/** Does `faults` faults: cuts of the client's network, kills and stops of workers, kills of the server. */
export async function faults(server: NatsServer, count: number): Promise<void> {
  using books = new Books();
  const { ledger } = books;
  await using proxy = await Proxy.start(server.port);
  const start = (): Program => {
    const command = [process.execPath, join(import.meta.dir, "nats-worker.ts"), "faults"];
    return new Program(command, { NATS_URL: server.url, LEDGER: ledger });
  };
  const workers = Array.from({ length: WORKERS }, start);
  const stopped = new Set<Program>();
  const done = new Map<string, number>();
  let isOver = false;
  const bus = await SlotBus.connect({ name: "faults", via: nats({ servers: proxy.url }) });
  try {
    await bus.ready({ workers: WORKERS });
    const callers = Array.from({ length: CALLERS }, () => call(bus, books, () => isOver));
    const fault = async (n: number): Promise<string> => {
      const at = n % WORKERS;
      if (n % 100 === 50) {
        await server.kill();
        await server.startAgain();
        return "kills of the server";
      }
      if (n % 25 === 0) {
        stopped.delete(workers[at]!);
        workers[at]!.kill("SIGKILL");
        await workers[at]!.ended();
        workers[at] = start();
        return "kills of a worker";
      }
      if (n % 10 === 5) {
        const worker = workers[at]!;
        worker.kill("SIGSTOP");
        stopped.add(worker);
        setTimeout(
          () => {
            if (stopped.delete(worker)) worker.kill("SIGCONT");
          },
          n % 200 === 5 ? 5_000 : 100,
        ); // once in a while for so long that it counts as dead
        return "stops of a worker";
      }
      if (n % 10 === 6) {
        server.signal("SIGSTOP");
        await Bun.sleep(20);
        server.signal("SIGCONT");
        return "stops of the server";
      }
      proxy.cut();
      return "cuts of the network";
    };
    for (let n = 1; n <= count; n++) {
      const what = await fault(n);
      done.set(what, (done.get(what) ?? 0) + 1);
      const before = books.answered;
      for (let waited = 0; waited < 200 && books.answered < before + 3; waited++) await Bun.sleep(5);
    }
    isOver = true;
    for (const worker of stopped) worker.kill("SIGCONT");
    stopped.clear();
    await Promise.all(callers);
  } finally {
    for (const worker of stopped) worker.kill("SIGCONT");
    await bus.close({ timeout: 0 });
    for (const worker of workers) await worker[Symbol.asyncDispose]();
  }
  note([...done].map(([what, n]) => `${n} ${what}`).join(", "));
  books.audit();
  expect(books.notExecuted.length > 0 && books.answered > count, "too little happened");
}
