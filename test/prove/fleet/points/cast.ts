/** The processes of one world of the fleet: a victim, a witness, helpers; who is a member, and what they answer. */

import { join } from "node:path";
import { until } from "../../../support.ts";
import { PATIENCE_MS, PointActor } from "../../points/actor.ts";
import { Books, type Subscription } from "./books.ts";
import { FleetFile } from "./file.ts";
import type { Numbered, Order, Report, Result, Tenure } from "./talk.ts";

export type Actor = PointActor<Numbered, Report>;

const NAME = "points";

export interface CastOptions {
  /** Of the books; of the fleet. */
  directory: string;
  runtime: string;
  library: string;
  problem: (text: string) => void;
}

export class Cast {
  readonly books: Books;
  readonly file: FleetFile;
  /** Those that were told of a subscription of theirs and were not told to leave. */
  readonly members = new Map<Actor, Subscription>();
  readonly problem: (text: string) => void;
  /** All that were claimed since it was last emptied. */
  tenures: Tenure[] = [];
  /** Codes of the typed errors of those who joined, and of those who fell asleep, since it was last emptied. */
  refusals: string[] = [];
  /** Somebody is stopped for longer than others wait: the witness may find a lock busy. */
  isHung = false;
  /** Of those who died inside a publication, or may have, since it was last set to 0. */
  deaths = 0;
  victim!: Actor;
  witness!: Actor;
  readonly #options: CastOptions;
  readonly #all = new Set<Actor>();
  readonly #idle: Actor[] = [];
  readonly #joining = new Map<Actor, Promise<Result | null>>();
  #orders = 0;

  constructor(options: CastOptions) {
    this.#options = options;
    this.problem = options.problem;
    this.books = Books.create(options.directory);
    this.file = new FleetFile(join(options.runtime, `${NAME}.fleet`));
  }

  /** A process that has loaded its modules, in no fleet. Another is made ready for the next time. */
  async #take(): Promise<Actor> {
    const actor = this.#idle.shift() ?? this.#spawn();
    if (this.#idle.length === 0) this.#idle.push(this.#spawn());
    await until(() => actor.gone || actor.reports.some(({ is }) => is === "loaded"), "it has loaded", PATIENCE_MS);
    return actor;
  }

  #spawn(): Actor {
    const { directory, runtime, library } = this.#options;
    const actor: Actor = new PointActor<Numbered, Report>({
      role: "member",
      program: join(import.meta.dir, "member.ts"),
      args: [NAME, directory],
      directory,
      runtime,
      library,
      problem: (text) => this.problem(text),
      take: (report) => {
        if (report.is === "broken") this.problem(report.what);
        if (report.is === "refused") this.refusals.push(report.code);
        return report.is === "broken" || report.is === "refused";
      },
    });
    this.#all.add(actor);
    return actor;
  }

  isAlive(pid: number): boolean {
    return [...this.#all].some((actor) => actor.pid === pid && !actor.gone);
  }

  /** Whatever the role, a member of the fleet. */
  async enlist(): Promise<Actor> {
    const actor = await this.#take();
    await this.joined(actor);
    return actor;
  }

  /** Leaves, and is kept for another time. */
  async dismiss(actor: Actor): Promise<void> {
    await this.leave(actor);
    if (!actor.gone) this.#idle.push(actor);
  }

  /** It has died, or is about to. */
  forget(actor: Actor): void {
    this.members.delete(actor);
    if (actor.gone) this.#all.delete(actor);
  }

  /** Tells and waits; `null` when it has ended before it answered. */
  async ask(actor: Actor, order: Order): Promise<Result | null> {
    const id = ++this.#orders;
    actor.tell({ ...order, id });
    const result = await actor.hear("done", (report) => report.id === id);
    this.tenures.push(...(result?.tenures ?? []));
    if (result?.busy && !this.isHung) this.problem(`${actor} found a lock busy ${result.busy} times`);
    return result;
  }

  /** The same of what cannot fail, unless somebody is hung. */
  async done(actor: Actor, order: Order): Promise<Result | null> {
    const result = await this.ask(actor, order);
    const isBusy = this.isHung && actor === this.witness && result?.code === "FLEET_BUSY";
    if (result?.code && !isBusy) this.problem(`${actor}, told to ${order.do}, failed with ${result.code}`);
    return result;
  }

  /** Makes it a member if it is none, once however many ask; `null` for one that has ended before. */
  join(actor: Actor): Promise<Result | null> {
    const known = this.#joining.get(actor);
    if (known) return known;
    if (this.members.has(actor)) return Promise.resolve({});
    const joining = this.ask(actor, { do: "join" })
      .then((result) => {
        const { subscription } = result ?? {};
        if (subscription !== undefined) this.members.set(actor, this.books.subscription(subscription));
        return result;
      })
      .finally(() => this.#joining.delete(actor));
    this.#joining.set(actor, joining);
    return joining;
  }

  /** The same when it cannot fail. */
  async joined(actor: Actor): Promise<void> {
    const result = await this.join(actor);
    if (result?.code) this.problem(`${actor} could not join: ${result.code}`);
  }

  async leave(actor: Actor): Promise<void> {
    this.members.delete(actor);
    await this.done(actor, { do: "leave" });
  }

  async destroy(): Promise<void> {
    for (const actor of this.#all) actor.kill();
    await Promise.all([...this.#all].map((actor) => actor.process.exited));
  }
}
