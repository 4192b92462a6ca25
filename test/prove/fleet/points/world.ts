/** A victim and a witness of one fleet, each a process of its own, and one fault at a time in the victim. */

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../../support.ts";
import { PATIENCE_MS, SIGNALS } from "../../points/actor.ts";
import type { Fault } from "../../points/labels.ts";
import type { Case, World as PointWorld } from "../../points/run.ts";
import { play } from "./acts.ts";
import { MEANT, PUBLISHED, REFUSED } from "./books.ts";
import { type Actor, Cast } from "./cast.ts";
import { type Act, type FleetPoint, REFUSALS } from "./labels.ts";
import type { Result } from "./talk.ts";

/** What the cases of all worlds came to. */
export const tally = {
  events: 0,
  tenures: 0,
  kills: 0,
  stalls: 0,
  errors: 0,
  busy: 0,
  lost: 0,
  doubled: 0,
  misdelivered: 0,
  leaked: 0,
};

const STOP_MS = 300;
/** Longer than anybody waits for a lock of the memory; for the join lock others wait 2 s. */
const HANG_MS = 1_300;
/** What is published has come to every sleeper by then, and nobody publishes meanwhile. */
const AWAKE_MS = 30_000;
/** The act of a label is repeated so often until the fault has happened. */
const ACTS = 16;
/** What a join that waits for a stopped member fails with. */
const BUSY_JOIN: readonly (string | undefined)[] = ["FLEET_BUSY", "RESOURCE"];

export class World implements PointWorld<FleetPoint> {
  readonly #cast: Cast;
  readonly #fleet: string;
  #problems: string[] = [];
  #fault: Fault | null = null;
  /** Events that each subscription was told are lost, up to the last case. */
  readonly #told = new Map<number, number>();
  /** The highest token so far. */
  #token = 0;

  constructor(directory: string, library: string) {
    this.#fleet = join(directory, "fleet");
    mkdirSync(this.#fleet, { mode: 0o700 });
    const problem = (text: string): void => this.#problem(text);
    this.#cast = new Cast({ directory, runtime: this.#fleet, library, problem });
  }

  async meet({ point, fault, nth }: Case<FleetPoint>): Promise<string[]> {
    const cast = this.#cast;
    this.#problems = [];
    this.#fault = fault;
    cast.deaths = 0;
    cast.refusals = [];
    cast.isHung = fault === "hang";
    const first = cast.books.events;
    try {
      cast.victim ??= await cast.enlist();
      cast.witness ??= await cast.enlist();
      if (!cast.victim.isCounted || !cast.witness.isCounted) await this.#prove();
      await this.#strike(cast.victim, point, nth);
      cast.isHung = false;
      await this.#prove();
      this.#audit(first);
      const refusals = cast.refusals.join();
      const expected = fault === "error" ? REFUSALS[point.label]! : "";
      if (refusals !== expected)
        this.#problem(`refused with ${refusals || "nothing"}, not with ${expected || "nothing"}`);
    } catch (error) {
      this.#problem(error instanceof Error ? error.message : String(error));
    }
    if (this.#problems.length > 0) this.#problem(`${cast.victim}, ${cast.witness}, ${readdirSync(this.#fleet).join()}`);
    return this.#problems;
  }

  async end(): Promise<string[]> {
    const { victim, witness } = this.#cast;
    this.#problems = [];
    for (const actor of [victim, witness]) if (actor) await this.#cast.leave(actor);
    const left = this.#files();
    if (left.length > 0) this.#problem(`the fleet left ${left.join()}`);
    tally.leaked += left.length;
    await this.destroy();
    return this.#problems;
  }

  destroy(): Promise<void> {
    return this.#cast.destroy();
  }

  #problem(text: string): void {
    this.#problems.push(text);
  }

  #files(): string[] {
    return readdirSync(this.#fleet).toSorted();
  }

  // ---- the fault ----------------------------------------------------------------------------------------------------

  async #strike(victim: Actor, point: FleetPoint, nth: number): Promise<void> {
    const { page } = victim;
    const fault = this.#fault!;
    victim.condemned = fault in SIGNALS;
    page.arm(point.label, fault, nth);
    for (let n = 0; n < ACTS && !page.hit; n++) {
      let isActing = true;
      const acted = play(this.#cast, point, (actor, files) => this.#rejoin(actor, files)).finally(() => {
        isActing = false;
      });
      const bothEnds = Promise.allSettled([acted]);
      await until(() => page.hit || !isActing, `the act "${point.act}" has ended`, PATIENCE_MS);
      if (page.hit) await this.#happen(victim, point.act, bothEnds);
      await bothEnds;
      await acted;
    }
    page.disarm();
    if (!page.hit)
      throw new Error(`${point.label} was not passed often enough: ${page.left} of ${nth} passages are missing`);
  }

  /** A join, which may fail when its system call does: then with nothing half made, and the next one succeeds. */
  async #rejoin(actor: Actor, files: number): Promise<void> {
    const { refusals } = this.#cast;
    const code = (await this.#cast.join(actor))?.code;
    if (code === undefined) return;
    refusals.push(code);
    const left = this.#files();
    if (left.length !== files || left.some((file) => file !== "points.fleet"))
      this.#problem(`a join that failed left ${left.join() || "nothing"}`);
    await this.#cast.joined(actor);
  }

  /** Nobody takes the place of the dead before the act has ended, and all who slept were told of what is published. */
  async #happen(victim: Actor, act: Act, actEnds: Promise<unknown>): Promise<void> {
    const fault = this.#fault!;
    const cast = this.#cast;
    if (fault === "error") {
      tally.errors++;
    } else if (fault === "stop" || fault === "hang") {
      tally.stalls++;
      await until(() => victim.state === "T", "the process is stopped", PATIENCE_MS);
      if (act !== "crowd") await this.#caughtUp(victim); // there the witness waits for the lock
      await this.#pause(victim, fault === "hang");
    } else {
      tally.kills++;
      cast.deaths++;
      const wrong = await victim.ended(fault);
      if (wrong) this.#problem(wrong);
      cast.forget(victim);
      await actEnds;
      await this.#caughtUp();
      cast.victim = await cast.enlist();
    }
  }

  /** The witness goes on meanwhile, or waits; when it has waited for long, it is told so. */
  async #pause(victim: Actor, hangs: boolean): Promise<void> {
    const { file, witness, members } = this.#cast;
    const began = performance.now();
    const locks = file.locks;
    if (hangs && !Object.values(locks).includes(true)) this.#problem("it holds no lock");
    const asks = members.has(witness) ? this.#use(witness) : { join: this.#cast.join(witness) };
    const continues = (): void => void victim.process.kill("SIGCONT");
    if (!hangs) {
      await Bun.sleep(STOP_MS);
      continues();
    }
    for (const [what, asked] of Object.entries(asks)) {
      const result = await asked;
      const isBusy = what === "join" ? BUSY_JOIN.includes(result?.code) : result?.code === "FLEET_BUSY";
      const isKept = hangs && locks[what as keyof typeof locks];
      if (isBusy) tally.busy++;
      if (isKept ? !isBusy : result?.code !== undefined)
        this.#problem(`while it was stopped the witness wanted the ${what}: ${result?.code ?? "had it"}`);
    }
    if (!hangs) return;
    await Bun.sleep(Math.max(0, began + HANG_MS - performance.now()));
    continues();
  }

  /** Each lock, once. */
  #use(witness: Actor): Record<"ring" | "leases" | "join", Promise<Result | null>> {
    const cast = this.#cast;
    const claim = async (): Promise<Result | null> => {
      const result = await cast.ask(witness, { do: "claim", subject: "other" });
      if (result?.tenures?.length === 0) this.#problem('"other" is not free');
      if (result?.tenures?.length !== 1) return result;
      return cast.ask(witness, { do: "release", subject: "other" });
    };
    return {
      ring: cast.ask(witness, { do: "publish", count: 2, paced: false }),
      leases: claim(),
      join: cast.ask(witness, { do: "visit" }),
    };
  }

  // ---- afterwards ---------------------------------------------------------------------------------------------------

  /** First nobody publishes: whoever sleeps beside an event that is published sleeps on. Then everybody does everything. */
  async #prove(): Promise<void> {
    const cast = this.#cast;
    const actors = [cast.victim, cast.witness];
    await this.#caughtUp();
    for (const actor of actors) {
      const result = await cast.done(actor, { do: "members" });
      const pids = result?.pids?.toSorted((a, b) => a - b).join();
      const expected = actors.map(({ pid }) => pid).toSorted((a, b) => a - b);
      if (pids !== expected.join()) this.#problem(`the members are ${pids}, not ${expected.join()}`);
    }
    for (const actor of actors) await cast.done(actor, { do: "visit" });
    await Promise.all(actors.map((actor) => cast.done(actor, { do: "publish", count: 4, paced: false })));
    await this.#caughtUp();
    this.#judgeTenures();
    for (const actor of actors) await this.#sweep(actor);
    const files = this.#files();
    if (files.join() !== "points.fleet") this.#problem(`files of the fleet: ${files.join()}`);
    for (const actor of actors) {
      const wrong = await actor.count();
      if (wrong) tally.leaked++;
      if (wrong) this.#problem(wrong);
    }
  }

  /** Everybody has what is published; but not one that is stopped. */
  async #caughtUp(stopped?: Actor): Promise<void> {
    const { members, file } = this.#cast;
    const behind = (): string[] => {
      const late = [...members].filter(([actor, { position }]) => actor !== stopped && position !== file.head);
      return late.map(([actor, { position }]) => `${actor} at ${position}`);
    };
    await until(() => behind().length === 0, "", AWAKE_MS).catch(() => {
      tally.lost++;
      this.#problem(`the ring's head is ${file.head}, and asleep are ${behind().join(", ")}`);
    });
  }

  /** Everything is free, and tokens rise. */
  async #sweep(actor: Actor): Promise<void> {
    await this.#cast.done(actor, { do: "sweep" });
    const { tenures } = this.#cast;
    for (const [n, { token, subject }] of tenures.entries()) {
      const before = tenures[n - 1]?.token ?? this.#token;
      if (token <= before) this.#problem(`token ${token} of ${subject} came after ${before}`);
    }
    this.#judgeTenures();
  }

  /** Who had a subject before, and did not give it back, is dead by now. */
  #judgeTenures(): void {
    for (const { subject, token, before } of this.#cast.tenures) {
      tally.tenures++;
      this.#token = Math.max(this.#token, token);
      if (before === 0 || !this.#cast.isAlive(before)) continue;
      tally.doubled++;
      this.#problem(`${subject} was claimed while pid ${before} held it`);
    }
    this.#cast.tenures = [];
  }

  /** What became of the events from `first` on. */
  #audit(first: number): void {
    const { books, members, deaths } = this.#cast;
    const subscriptions = [...members.values()];
    let undecided = 0;
    const missing = subscriptions.map(() => 0);
    for (let event = first; event < books.events; event++) {
      tally.events++;
      const outcome = books.outcome[event]!;
      if (outcome === MEANT) undecided++;
      const times = subscriptions.map(({ received }) => received[event]!);
      if (times.some((count) => count > 1)) {
        tally.doubled++;
        this.#problem(`event ${event} was received ${times.join()} times`);
      }
      if (outcome === REFUSED && times.some((count) => count > 0)) {
        tally.misdelivered++;
        this.#problem(`event ${event} was refused, and received`);
      }
      const isSomewhere = outcome === PUBLISHED || times.includes(1);
      for (const [n, { from }] of subscriptions.entries()) {
        if (event >= from && isSomewhere && times[n] === 0) missing[n]!++;
      }
    }
    for (const [n, { number, overwritten }] of subscriptions.entries()) {
      const told = overwritten - (this.#told.get(number) ?? 0);
      this.#told.set(number, overwritten);
      const lost = Math.max(0, missing[n]! - told);
      tally.lost += lost;
      if (lost > 0) this.#problem(`${missing[n]} events are missing, and ${told} were told to be overwritten`);
    }
    if (undecided > deaths) this.#problem(`${undecided} publications did not end, and ${deaths} processes died`);
  }
}
