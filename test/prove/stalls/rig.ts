/** One bus under load. Its processes are stopped for a short time in chosen states, again and again. */

import { Actor, type Common, type Crew, processState, stopped } from "../actor.ts";
import type { Histogram } from "../figures.ts";
import { Random } from "../soak/request-books.ts";
import type { Times } from "../soak/times.ts";
import type * as clients from "./client.ts";
import type { Phase, Phases } from "./phases.ts";
import { type Fault, IMPOSSIBLE, type State, STATES } from "./states.ts";

/** Parts of one bus, and parts that all buses share. */
export interface World {
  crew: Crew;
  folder: string;
  name: string;
  phases: Phases;
  times: Times;
  histogram: Histogram<State, Fault>;
  tally: { stalls: number; lost: number; leaked: number };
}

/** Orders to a worker. */
export type Order = "go" | "again" | "close" | "count";
type Report = Common | { is: "again" } | { is: "count"; maps: number };

interface Worker {
  actor: Actor<Report, Order>;
  index: number;
  kind: "async" | "sync";
  /** Stopped, or on its way out and in. */
  busy: boolean;
}

const KINDS = ["async", "async", "sync"] as const;
/** Of the client in the phases. */
const CLIENT = 9;
/** Stops between two quiet points. */
const QUIET_EVERY = 100;
const SHORTEST_MS = 5;
const LONGEST_MS = 300;

export class Rig {
  readonly #world: World;
  readonly #random: Random;
  readonly #client: Actor<clients.Report, clients.Order>;
  readonly #workers: Worker[];

  /** Starts a client and its workers, which have attached when this resolves. */
  static async start(world: World, seed: number): Promise<Rig> {
    const rig = new Rig(world, seed);
    await Promise.all([rig.#client.loaded(), ...rig.#workers.map(({ actor }) => actor.loaded())]);
    rig.#client.tell({ do: "go" });
    await rig.#client.hear("open", 20_000);
    for (const { actor } of rig.#workers) actor.tell("go");
    await rig.#quiet();
    return rig;
  }

  private constructor(world: World, seed: number) {
    this.#world = world;
    this.#random = new Random(seed);
    const own = [world.name, world.folder];
    this.#client = new Actor(world.crew, "stalls/client.ts", [...own, String(seed), String(CLIENT)]);
    this.#workers = KINDS.map((kind, index) => ({
      actor: new Actor(world.crew, "stalls/worker.ts", [...own, String(index), kind, "256"]),
      index,
      kind,
      busy: false,
    }));
  }

  /** Stops a process, again and again, until `enough`. */
  async run(enough: () => boolean): Promise<void> {
    for (let stops = 1; !enough(); stops++) {
      const dice = this.#random.below(100);
      if (dice < 70) await this.#stopWorker();
      else if (dice < 92) await this.#stopClient();
      else for (const worker of this.#workers.filter(({ busy }) => !busy)) await this.#stop(worker, "ready");
      if (stops % QUIET_EVERY === 0) await this.#quiet();
    }
    await this.#quiet(true);
  }

  /** Usually the state in which this fault has occurred least often. */
  #rarest(fault: Fault): State {
    const { histogram } = this.#world;
    const possible = STATES.filter((state) => !IMPOSSIBLE.has(`${state} ${fault}`));
    if (this.#random.chance(0.5)) return this.#random.pick(possible);
    return possible.toSorted((x, y) => histogram.get(x, fault) - histogram.get(y, fault))[0]!;
  }

  #hold(): Promise<void> {
    return Bun.sleep(SHORTEST_MS * (LONGEST_MS / SHORTEST_MS) ** (this.#random.below(1000) / 1000));
  }

  #met(states: readonly State[], fault: Fault): void {
    this.#world.tally.stalls++;
    for (const state of states) this.#world.histogram.add(state, fault);
  }

  async #stopWorker(): Promise<void> {
    const want = this.#rarest("stop worker");
    const isSync = want === "sync handler" || want === "sync wait";
    const isAsync = want === "parked" || want === "attaching" || want === "closing";
    const free = this.#workers.filter(
      ({ busy, kind }) => !busy && !(isSync && kind === "async") && !(isAsync && kind === "sync"),
    );
    if (free.length === 0) return this.#hold();
    const worker = this.#random.pick(free);
    if (want === "attaching" || want === "closing") await this.#stopOnItsWay(worker, want);
    else await this.#stop(worker, want);
  }

  /** Stops a worker through the client, which sees the worker's requests; continues it some time later. */
  async #stop(worker: Worker, want: State): Promise<void> {
    const { actor, index } = worker;
    worker.busy = true;
    this.#client.tell({ do: "stop", pid: actor.pid, index, want });
    const { met } = await this.#client.hear("stopped", 20_000);
    this.#met(met, "stop worker");
    void this.#hold().then(() => {
      this.#continue(actor);
      worker.busy = false;
    });
  }

  /** Stops a worker from this process while it leaves or attaches again, as recorded in the phases. */
  async #stopOnItsWay(worker: Worker, want: Phase & State): Promise<void> {
    const { actor, index } = worker;
    worker.busy = true;
    actor.tell("again");
    await this.#reach(index, want);
    actor.process.kill("SIGSTOP");
    await stopped(actor.pid);
    if (this.#world.phases.get(index) === want) this.#met([want], "stop worker");
    await this.#hold();
    this.#continue(actor);
    await actor.hear("again", 20_000);
    worker.busy = false;
  }

  /** Until a process is in a phase, and then up to 2 ms more. */
  async #reach(index: number, want: Phase): Promise<void> {
    const end = performance.now() + 2_000;
    while (this.#world.phases.get(index) !== want && performance.now() < end)
      await new Promise((resolve) => setImmediate(resolve));
    const later = performance.now() + this.#random.below(2_000) / 1000;
    while (performance.now() < later);
  }

  #continue(actor: { pid: number; isAlive: boolean; process: Bun.Subprocess }): void {
    this.#world.times.continue(actor.pid, actor === this.#client);
    if (actor.isAlive) actor.process.kill("SIGCONT");
  }

  async #stopClient(): Promise<void> {
    const want = this.#rarest("stop client");
    if (want === "closing") return this.#stopClientWhile({ do: "reopen" }, "reopened", want);
    if (want === "sync wait") return this.#stopClientWhile({ do: "ask-sync" }, "asked", want);
    if (want === "attaching") return this.#stopClientAtAttach();
    if (want === "parked") return this.#stopClientAsleep();
    this.#client.tell({ do: "stop", pid: 0, index: CLIENT, want });
    await stopped(this.#client.pid);
    await this.#hold();
    this.#continue(this.#client);
    this.#met((await this.#client.hear("stopped", 20_000)).met, "stop client");
  }

  async #stopClientWhile(order: clients.Order, over: "reopened" | "asked", want: Phase & State): Promise<void> {
    this.#client.tell(order);
    await this.#reach(CLIENT, want);
    await this.#freeze(() => this.#world.phases.get(CLIENT) === want, want);
    await this.#client.hear(over, 60_000);
  }

  /** While a worker attaches to it. */
  async #stopClientAtAttach(): Promise<void> {
    const worker = this.#workers.find(({ busy, kind }) => !busy && kind === "async");
    if (!worker) return;
    worker.busy = true;
    worker.actor.tell("again");
    await this.#reach(worker.index, "attaching");
    await this.#freeze(() => this.#world.phases.get(worker.index) === "attaching", "attaching");
    await worker.actor.hear("again", 20_000);
    worker.busy = false;
  }

  /** When it has nothing to do, and its thread sleeps. */
  async #stopClientAsleep(): Promise<void> {
    this.#client.tell({ do: "pause" });
    await this.#client.hear("paused", 60_000);
    await Bun.sleep(5);
    const asleep = processState(this.#client.pid) === "S";
    await this.#freeze(() => asleep, "parked");
    this.#client.tell({ do: "resume" });
  }

  /** Stops the client from outside; `isMet` is called once it is stopped. */
  async #freeze(isMet: () => boolean, want: State): Promise<void> {
    this.#client.process.kill("SIGSTOP");
    await stopped(this.#client.pid);
    if (isMet()) this.#met([want], "stop client");
    await this.#hold();
    this.#continue(this.#client);
  }

  async #quiet(last = false): Promise<void> {
    const { crew, tally } = this.#world;
    while (this.#workers.some(({ busy }) => busy)) await Bun.sleep(1);
    this.#client.tell({ do: "quiet", workers: this.#workers.length, last });
    const { faults, lost } = await this.#client.hear("quiet", 200_000);
    for (const { actor, kind } of this.#workers) {
      if (kind === "sync") continue; // it has no event loop to be asked by
      actor.tell("count");
      const { maps } = await actor.hear("count", 20_000);
      if (maps !== 1) faults.push(`worker ${actor.pid} has ${maps} regions mapped`);
    }
    tally.lost += lost;
    tally.leaked += faults.length;
    for (const fault of faults) crew.problem(`at a quiet point: ${fault}`);
  }
}
