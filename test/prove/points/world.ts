/** A client, a worker and a blocking worker of one bus, each a process of its own, and one fault at a time in one of them. */

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../support.ts";
import * as b from "../soak/books.ts";
import { PATIENCE_MS, PointActor, SIGNALS } from "./actor.ts";
import type { Fault, Point, Role } from "./labels.ts";
import type { Case } from "./run.ts";
import type { Order, Report } from "./talk.ts";

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
/** The act of a label is repeated so often until the fault has happened. */
const ACTS = 12;
const CAPACITY = 2_000_000;

type Actor = PointActor<Order, Report>;

let serial = 0;

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
  async meet({ point, fault, nth }: Case<Point>): Promise<string[]> {
    this.#problems = [];
    this.#fault = fault;
    const first = this.#books.next;
    try {
      for (const role of ["client", "worker", "blocker"] as const) {
        if (!this.#actors.has(role)) await this.#start(role);
      }
      const victim = this.#actors.get(point.role)!;
      if (!victim.isCounted) await this.#prove();
      await this.#strike(victim, point, nth);
      await this.#prove();
    } catch (error) {
      this.#problem(error instanceof Error ? error.message : String(error));
    }
    this.#audit(first, point.role === "client" && fault in SIGNALS);
    if (this.#problems.length > 0) this.#problem([...this.#actors.values()].join(", "));
    return this.#problems;
  }

  /** Ends all in good order, and expects nothing left. */
  async end(): Promise<string[]> {
    this.#problems = [];
    const actors = [...this.#actors.values()];
    for (const actor of actors) actor.condemned = true;
    const client = this.#actors.get("client");
    client?.tell({ do: "end" });
    await until(() => !client || client.gone, "the client has ended", PATIENCE_MS).catch((error) =>
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
    const actor = new PointActor<Order, Report>({
      role,
      program: join(import.meta.dir, role === "client" ? "client.ts" : "worker.ts"),
      args: ["points", this.#directory, role === "client" ? String(this.#seed + ++serial) : role],
      directory: this.#directory,
      runtime: this.#bus,
      library: this.#library,
      problem: (text) => this.#problem(text),
      take: (report) => this.#take(role, report),
    });
    this.#all.add(actor);
    return actor;
  }

  #take(role: Role, report: Report): boolean {
    if (report.is === "broken") {
      this.#problem(report.what);
    } else if (report.is === "refused") {
      tally.refused++;
      if (this.#fault !== "error") this.#problem(`a start of the ${role} failed at first: ${report.code}`);
    }
    return report.is === "broken" || report.is === "refused";
  }

  async #start(role: Role): Promise<void> {
    const actor = this.#spares.get(role) ?? this.#spawn(role);
    this.#spares.delete(role);
    this.#actors.set(role, actor);
    await actor.hear("loaded");
    actor.tell({ do: "go" });
    if (!(await actor.hear(role === "client" ? "open" : "attached")))
      throw new Error(`no new ${role} could be started`);
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
    const client = this.#actors.get("client")!;
    const worker = this.#actors.get("worker")!;
    client.tell({ do: "act", act });
    if (act === "attach") worker.tell({ do: "attach" });
    if (act === "attach") await worker.hear("attached");
    await client.hear("acted");
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
      const wrong = await victim.ended(fault);
      if (wrong) this.#problem(wrong);
      this.#all.delete(victim);
      await this.#start(role);
    }
  }

  // ---- afterwards ---------------------------------------------------------------------------------------------------

  async #prove(): Promise<void> {
    const client = this.#actors.get("client")!;
    client.tell({ do: "prove", workers: WORKERS });
    const proof = await client.hear("proved");
    if (!proof) throw new Error("the client ended");
    tally.lost += proof.lost;
    for (const text of proof.faults) this.#problem(text);
    if (proof.died > 0 && this.#fault === "stop")
      this.#problem(`${proof.died} requests "died" with a worker that lives`);
    const files = readdirSync(this.#bus).toSorted().join();
    if (files !== "points.lock,points.sock") this.#problem(`files of the bus: ${files}`);
    for (const actor of this.#actors.values()) {
      const wrong = await actor.count();
      if (wrong) tally.leaked++;
      if (wrong) this.#problem(wrong);
    }
  }

  /** What the books say of the requests from `first` on; those of a client that died need not have settled. */
  #audit(first: number, clientDied: boolean): void {
    for (let id = first; id < this.#books.next; id++) {
      const outcome = this.#books.outcome[id]!;
      const runs = this.#books.runs[id]! % b.REPLIED;
      const replied = this.#books.runs[id]! >= b.REPLIED;
      tally.requests++;
      if (!(outcome & b.SETTLED)) {
        if (clientDied) tally.vanished++;
        else this.#problem(`request ${id} never settled`);
        if (!clientDied) tally.lost++;
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
