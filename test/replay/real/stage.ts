/** Runs real worlds: starts their processes, and kills and stops them when a client wants it. */

import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { native } from "../../../src/native/library.ts";
import { Actor, Crew } from "../../prove/actor.ts";
import { until } from "../../wait.ts";
import { SharedBooks } from "./books.ts";
import { choicesOf, type Judged, type Order, type Report, type Setting, type Wish } from "./orders.ts";

type Child = Actor<Report, Order>;

/** Longest time until a world has come to rest, in ms. On an idle machine it takes 2 s. */
const WORLD_MS = 30_000;
/** Time at which the workers of a killed client are closed, in ms after the beginning. */
const CLOSE_MS = 1_200;

/** Processes that are started ahead. */
const SPARES = 6;

/** Gives an order to a process that may have been killed. */
function tell(child: Child, order: Order): void {
  try {
    child.tell(order);
  } catch (error) {
    if (!child.condemned) throw error;
  }
}

/** What one world was. */
export interface Played {
  failure: string | null;
  calls: number;
  faults: number;
  kills: number;
  stops: number;
  /** How the calls ended; without the calls of a killed client. */
  outcomes: Record<string, string>;
}

/** One client of a world, with its workers. */
class Company {
  readonly setting: Setting;
  readonly client: Child;
  kills = 0;
  stops = 0;
  judged: Judged | null = null;
  readonly failures: string[] = [];
  readonly #stage: Stage;
  readonly #workers: { child: Promise<Child>; isClosing: boolean; isOver: boolean }[] = [];
  #isResting = false;
  #isJudging = false;

  constructor(stage: Stage, setting: Setting, client: Child) {
    this.#stage = stage;
    this.setting = setting;
    this.client = client;
    client.tell({ do: "call", ...setting });
  }

  /** Handles what the client says. Returns whether all processes have come to rest. */
  async step(): Promise<boolean> {
    const { client } = this;
    for (const report of client.reports.splice(0)) {
      if (report.is === "wish" && !this.#isJudging) this.#grant(report);
      else if (report.is === "rest") this.#isResting = true;
      else if (report.is === "judged") this.#judge(report);
    }
    if (!client.isAlive && native.sb_now_ms() - this.setting.epoch > CLOSE_MS)
      for (const [index] of this.#workers.entries()) this.#close(index, 0);
    const areOver = this.#workers.every(({ isOver }) => isOver);
    if (this.#isResting && areOver) {
      this.#isResting = false;
      this.#isJudging = true; // a wish that comes now was made after the rest
      tell(client, { do: "judge" });
    }
    return areOver && (this.judged !== null || !client.isAlive);
  }

  #judge(judged: Judged): void {
    this.judged = judged;
    if (judged.failure !== null) this.failures.push(judged.failure);
  }

  #grant({ what, worker, ms }: Wish): void {
    if (what === "start") this.#start();
    else if (what === "close") this.#close(worker, ms);
    else if (what === "kill") this.#strike(worker, (child) => this.#kill(worker, child));
    else this.#strike(worker, (child) => this.#stop(child, ms));
  }

  #start(): void {
    const index = this.#workers.length;
    const begin = async (): Promise<Child> => {
      const child = await this.#stage.take();
      tell(child, { do: "work", worker: index, ...this.setting });
      tell(this.client, { do: "know", worker: index, pid: child.pid });
      return child;
    };
    this.#workers.push({ child: begin(), isClosing: false, isOver: false });
  }

  #strike(index: number, strike: (child: Child) => void): void {
    const worker = this.#workers[index];
    if (!worker) strike(this.client);
    else
      void worker.child.then((child) => {
        if (!worker.isOver) strike(child); // otherwise it may be in another world
      });
  }

  #kill(index: number, child: Child): void {
    this.kills++;
    child.condemned = true;
    child.process.kill("SIGKILL");
    if (index >= 0) this.#workers[index]!.isOver = true;
  }

  #stop(child: Child, ms: number): void {
    this.stops++;
    child.process.kill("SIGSTOP");
    setTimeout(() => child.process.kill("SIGCONT"), ms);
  }

  #close(index: number, ms: number): void {
    const worker = this.#workers[index]!;
    if (worker.isClosing || worker.isOver) return;
    worker.isClosing = true;
    void worker.child.then(async (child) => {
      if (worker.isOver) return;
      tell(child, { do: "close", ms });
      const judged = await child.hear("judged", WORLD_MS).catch(() => null);
      if (judged && judged.failure !== null) this.failures.push(judged.failure);
      if (judged) this.#stage.give(child);
      worker.isOver = judged !== null || child.condemned;
    });
  }
}

/** Plays worlds with a pool of processes. */
export class Stage implements AsyncDisposable {
  /** What went wrong with processes. */
  readonly problems: string[] = [];
  readonly #folder = mkdtempSync(join(tmpdir(), "slotbus-real-"));
  readonly #runtime = join(this.#folder, "runtime");
  readonly #crew = new Crew(this.#runtime, (what) => this.problems.push(what));
  /** Processes that wait for orders, or will. */
  readonly #spares: Promise<Child>[] = [];
  #serial = 0;

  constructor() {
    mkdirSync(this.#runtime, { mode: 0o700 });
  }

  /** Returns a process that waits for orders. */
  async take(): Promise<Child> {
    const child = this.#spares.shift() ?? this.#start();
    this.#stock();
    return child;
  }

  #start(): Promise<Child> {
    const child: Child = new Actor(this.#crew, "../replay/real/child.ts", []);
    const loaded = child.loaded();
    loaded.catch(() => {}); // the stage ended first; `take` sees every other error
    return loaded;
  }

  /** Starts processes before a world wants them, so that a worker attaches when its choices say so. */
  #stock(): void {
    while (this.#spares.length < SPARES) this.#spares.push(this.#start());
  }

  /** Takes a process back, unless it was killed after it had said how its world was. */
  give(child: Child): void {
    if (child.isAlive && !child.condemned) this.#spares.unshift(Promise.resolve(child));
  }

  /** Plays the world of a seed. `lane`: no other world has this number at the same time. */
  async play(seed: number, isCalm: boolean, lane: number): Promise<Played> {
    const buses = choicesOf(seed, isCalm).die("world").chance("second bus", 200) ? 2 : 1;
    const clients = await Promise.all(Array.from({ length: buses }, () => this.take()));
    const epoch = native.sb_now_ms();
    const companies = clients.map((client, bus) => {
      const books = join(this.#folder, `books-${lane}-${bus}`);
      SharedBooks.clear(books);
      const name = `real-${process.pid}-${++this.#serial}`;
      return new Company(this, { seed, isCalm, bus, name, epoch, books }, client);
    });
    const failures: string[] = [];
    const isOver = async (): Promise<boolean> => {
      const steps = await Promise.all(companies.map((company) => company.step()));
      return steps.every(Boolean) || this.problems.length > 0;
    };
    await until(isOver, "the world has come to rest", WORLD_MS).catch((error) => failures.push(error.message));
    for (const company of companies) {
      const { name } = company.setting;
      const left = readdirSync(this.#runtime).filter((file) => file.startsWith(`${name}.`));
      if (company.judged && left.length > 0) failures.push(`the bus left ${left.join()}`);
      failures.push(...company.failures);
      if (company.judged) this.give(company.client);
    }
    const sum = (what: (company: Company) => number): number => companies.reduce((all, one) => all + what(one), 0);
    return {
      failure: failures[0] ?? this.problems[0] ?? null,
      calls: sum(({ judged }) => judged?.calls ?? 0),
      faults: sum(({ judged }) => judged?.faults ?? 0),
      kills: sum(({ kills }) => kills),
      stops: sum(({ stops }) => stops),
      outcomes: Object.assign({}, ...companies.map(({ judged }) => judged?.outcomes ?? {})),
    };
  }

  /** Ends all processes, and removes what killed clients left. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#crew.endAll();
    rmSync(this.#folder, { recursive: true });
  }
}
