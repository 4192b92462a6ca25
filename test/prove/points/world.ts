/** A hub, a worker and a blocking worker of one bus, each a process of its own, and one fault at a time in one of them. */

import { mkdirSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../support.ts";
import * as b from "../soak/books.ts";
import type { Fault, Point, Role } from "./labels.ts";
import { Page } from "./page.ts";
import type { Order, Report } from "./talk.ts";

/** One fault at the `nth` passage of a label. */
export interface Case {
  point: Point;
  fault: Fault;
  nth: number;
}

/** What the cases of all worlds came to. */
export const tally = {
  requests: 0,
  kills: 0,
  stalls: 0,
  errors: 0,
  refused: 0,
  vanished: 0,
  lost: 0,
  doubled: 0,
  misdelivered: 0,
  leaked: 0,
};

const STOP_MS = 300;
const WORKERS = 2;
/** Longest wait for anything, in ms: a busy machine may keep a process waiting for half a minute. */
const PATIENCE_MS = 150_000;
/** The act of a label is repeated so often until the fault has happened. */
const ACTS = 12;
const CAPACITY = 2_000_000;
/** What is closed is gone from /proc after this time at the latest. */
const HELD_MS = 30_000;
const SIGNALS: Partial<Record<Fault, string>> = { kill: "SIGKILL", abort: "SIGABRT" };

interface Holdings {
  descriptors: number;
  mappings: number;
}

let serial = 0;

class Actor {
  readonly process: Bun.Subprocess;
  readonly page: Page;
  readonly reports: Report[] = [];
  /** It may end; otherwise that is a problem. */
  condemned = false;
  gone = false;
  /** At its first proof. */
  holdings: Holdings | null = null;

  constructor(
    readonly role: Role,
    directory: string,
    bus: string,
    seed: number,
    library: string,
    problem: (text: string) => void,
    refused: (code: string) => void,
  ) {
    this.page = new Page(join(directory, `page-${++serial}`));
    const program = join(import.meta.dir, role === "hub" ? "hub.ts" : "worker.ts");
    const detail = role === "hub" ? String(seed + serial) : role;
    this.process = Bun.spawn([process.execPath, program, "points", directory, detail], {
      env: {
        ...process.env,
        SLOTBUS_DIR: bus,
        SLOTBUS_LIB: library,
        SLOTBUS_POINTS: this.page.file,
        BUN_ENABLE_CRASH_REPORTING: "0",
      },
      stdio: ["ignore", "inherit", "inherit"],
      ipc: (report: Report) => {
        if (report.is === "broken") problem(report.what);
        else if (report.is === "refused") refused(report.code);
        else this.reports.push(report);
      },
      onExit: (child, code, signal) => {
        this.gone = true;
        if (!this.condemned) problem(`the ${role} (pid ${child.pid}) ended by itself: ${code ?? signal}`);
      },
    });
  }

  tell(order: Order): void {
    if (!this.gone) this.process.send(order);
  }

  /** The next report of a kind, taken; `null` when the process has ended before. */
  async hear<K extends Report["is"]>(kind: K): Promise<Extract<Report, { is: K }> | null> {
    const find = (): number => this.reports.findIndex((report) => report.is === kind);
    await until(() => this.gone || find() >= 0, `the ${this.role} says "${kind}"`, PATIENCE_MS).catch((error) => {
      throw new Error(`${error.message} (${this})`);
    });
    const at = find();
    return at < 0 ? null : (this.reports.splice(at, 1)[0] as Extract<Report, { is: K }>);
  }

  /** As the kernel tells it: `T` is stopped. */
  get state(): string {
    return /\) (\S)/.exec(readFileSync(`/proc/${this.process.pid}/stat`, "latin1"))?.[1] ?? "";
  }

  toString(): string {
    return `${this.role} ${this.process.pid} ${this.gone ? "gone" : this.state}`;
  }

  /** Descriptors and mappings that the bus may have to do with. */
  held(): Holdings {
    const folder = `/proc/${this.process.pid}`;
    const targets = readdirSync(`${folder}/fd`).map((fd) => {
      try {
        return readlinkSync(`${folder}/fd/${fd}`);
      } catch {
        return ""; // closed meanwhile
      }
    });
    const maps = readFileSync(`${folder}/maps`, "latin1").split("\n");
    return {
      descriptors: targets.filter((target) => target !== "").length,
      mappings: maps.filter((line) => line.includes("memfd:slotbus")).length,
    };
  }

  kill(): void {
    this.condemned = true;
    this.process.kill("SIGKILL");
  }
}

export class World {
  readonly #directory: string;
  readonly #bus: string;
  readonly #library: string;
  readonly #seed: number;
  readonly #books: b.Books;
  readonly #actors = new Map<Role, Actor>();
  readonly #spares = new Map<Role, Actor>();
  readonly #all = new Set<Actor>();
  #problems: string[] = [];
  #fault: Fault | null = null;

  constructor(directory: string, seed: number, library: string) {
    this.#directory = directory;
    this.#seed = seed;
    this.#library = library;
    this.#bus = join(directory, "bus");
    mkdirSync(this.#bus, { recursive: true, mode: 0o700 });
    this.#books = b.Books.create(directory, CAPACITY);
  }

  /** Lets one fault happen. Returns what was wrong; then the world is to be ended. */
  async meet({ point, fault, nth }: Case): Promise<string[]> {
    this.#problems = [];
    this.#fault = fault;
    const first = this.#books.next;
    try {
      for (const role of ["hub", "worker", "blocker"] as const) {
        if (!this.#actors.has(role)) await this.#start(role);
      }
      const victim = this.#actors.get(point.role)!;
      if (!victim.holdings) await this.#prove();
      await this.#strike(victim, point, nth);
      await this.#prove();
    } catch (error) {
      this.#problem(error instanceof Error ? error.message : String(error));
    }
    this.#audit(first, point.role === "hub" && fault in SIGNALS);
    if (this.#problems.length > 0) this.#problem([...this.#actors.values()].join(", "));
    return this.#problems;
  }

  /** Ends all in good order, and expects nothing left. */
  async end(): Promise<string[]> {
    this.#problems = [];
    const actors = [...this.#actors.values()];
    for (const actor of actors) actor.condemned = true;
    const hub = this.#actors.get("hub");
    hub?.tell({ do: "end" });
    await until(() => !hub || hub.gone, "the hub has ended", PATIENCE_MS).catch((error) =>
      this.#problem(error.message),
    );
    const left = readdirSync(this.#bus);
    if (left.length > 0) this.#problem(`the bus left ${left.join()}`);
    tally.leaked += left.length;
    await this.destroy();
    return this.#problems;
  }

  async destroy(): Promise<void> {
    for (const actor of this.#all) actor.kill();
    await Promise.all([...this.#all].map((actor) => actor.process.exited));
  }

  #problem(text: string): void {
    this.#problems.push(text);
  }

  #spawn(role: Role): Actor {
    const report = (text: string): void => this.#problem(text);
    const refused = (code: string): void => {
      tally.refused++;
      if (this.#fault !== "error") this.#problem(`a start of the ${role} failed at first: ${code}`);
    };
    const actor = new Actor(role, this.#directory, this.#bus, this.#seed, this.#library, report, refused);
    this.#all.add(actor);
    return actor;
  }

  async #start(role: Role): Promise<void> {
    const actor = this.#spares.get(role) ?? this.#spawn(role);
    this.#spares.delete(role);
    this.#actors.set(role, actor);
    await actor.hear("loaded");
    actor.tell({ do: "go" });
    if (!(await actor.hear(role === "hub" ? "open" : "attached"))) throw new Error(`no new ${role} could be started`);
    if (role !== "blocker") this.#spares.set(role, this.#spawn(role));
  }

  // ---- the fault ----------------------------------------------------------------------------------------------------

  async #strike(victim: Actor, { label, role, act }: Point, nth: number): Promise<void> {
    const fault = this.#fault!;
    const { page } = victim;
    victim.condemned = fault in SIGNALS;
    page.arm(label, fault, nth);
    for (let n = 0; n < ACTS && !page.hit; n++) {
      let acting = true;
      const acted = this.#act(act).finally(() => {
        acting = false;
      });
      const bothEnds = Promise.allSettled([acted]);
      await until(() => page.hit || !acting, `the act "${act}" has ended`, PATIENCE_MS);
      if (page.hit) await this.#happen(victim, role);
      await bothEnds;
      await acted;
    }
    page.disarm();
    if (!page.hit) throw new Error(`${label} was not passed often enough: ${page.left} of ${nth} passages are missing`);
  }

  async #act(act: Point["act"]): Promise<void> {
    const hub = this.#actors.get("hub")!;
    const worker = this.#actors.get("worker")!;
    hub.tell({ do: "act", act });
    if (act === "attach") worker.tell({ do: "attach" });
    if (act === "attach") await worker.hear("attached");
    await hub.hear("acted");
  }

  async #happen(victim: Actor, role: Role): Promise<void> {
    const fault = this.#fault!;
    if (fault === "error") {
      tally.errors++;
    } else if (fault === "stop") {
      tally.stalls++;
      await until(() => victim.state === "T", "the process is stopped", PATIENCE_MS);
      await Bun.sleep(STOP_MS);
      victim.process.kill("SIGCONT");
    } else {
      tally.kills++;
      await until(() => victim.gone, "the process has ended", PATIENCE_MS);
      const { signalCode } = victim.process;
      if (signalCode !== SIGNALS[fault]) this.#problem(`the ${role} ended by ${signalCode}, not ${SIGNALS[fault]}`);
      this.#all.delete(victim);
      await this.#start(role);
    }
  }

  // ---- afterwards ---------------------------------------------------------------------------------------------------

  async #prove(): Promise<void> {
    const hub = this.#actors.get("hub")!;
    hub.tell({ do: "prove", workers: WORKERS });
    const proof = await hub.hear("proved");
    if (!proof) throw new Error("the hub ended");
    tally.lost += proof.lost;
    for (const text of proof.faults) this.#problem(text);
    if (proof.died > 0 && this.#fault === "stop")
      this.#problem(`${proof.died} requests "died" with a worker that lives`);
    const files = readdirSync(this.#bus).toSorted().join();
    if (files !== "points.lock,points.sock") this.#problem(`files of the bus: ${files}`);
    for (const actor of this.#actors.values()) await this.#count(actor);
  }

  /** No more than at the first proof. */
  async #count(actor: Actor): Promise<void> {
    const most = (actor.holdings ??= actor.held());
    let now = most;
    const isBack = (): boolean => {
      now = actor.held();
      return now.descriptors <= most.descriptors && now.mappings <= most.mappings;
    };
    await until(isBack, "", HELD_MS).catch(() => {
      tally.leaked++;
      const held = `${now.descriptors} descriptors and ${now.mappings} mappings`;
      this.#problem(`the ${actor.role} holds ${held}, not ${most.descriptors} and ${most.mappings}`);
    });
  }

  /** What the books say of the requests from `first` on; those of a hub that died need not have settled. */
  #audit(first: number, hubDied: boolean): void {
    for (let id = first; id < this.#books.next; id++) {
      const outcome = this.#books.outcome[id]!;
      const runs = this.#books.runs[id]! % b.REPLIED;
      const replied = this.#books.runs[id]! >= b.REPLIED;
      tally.requests++;
      if (!(outcome & b.SETTLED)) {
        if (hubDied) tally.vanished++;
        else this.#problem(`request ${id} never settled`);
        if (!hubDied) tally.lost++;
      }
      if (runs > 1 || outcome & b.TWICE) {
        tally.doubled++;
        this.#problem(`request ${id} ran ${runs} times${outcome & b.TWICE ? " and settled twice" : ""}`);
      }
      const unasked = (outcome & b.ANSWERED) !== 0 && !replied;
      const denied = (outcome & b.REFUSED) !== 0 && runs > 0;
      if (unasked) this.#problem(`request ${id} was answered, and no handler did`);
      if (denied) this.#problem(`request ${id} "certainly did not run", and ran`);
      if (unasked || denied || outcome & b.WRONG) tally.misdelivered++;
    }
  }
}
