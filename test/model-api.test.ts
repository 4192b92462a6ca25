/**
 * Any sequence of calls, against a model of one page: fast-check searches for a sequence after which a request settles in
 * another way than the model says, twice, or not at all. A failure prints the seed and the shortest sequence.
 */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { RemoteError, SlotbusError, type SlotBus, type SlotWorker, type DeferredAnswer } from "slotbus";
import { until, Workspace } from "./support.ts";

type Kind = "echo" | "throw" | "later";

/** The public API's promises about requests: `null` waits, otherwise how the request settled. */
class Model {
  open = true;
  hasWorker = false;
  readonly kinds: Kind[] = [];
  readonly outcomes: (string | null)[] = [];

  /** Requests that a worker has without an answer, or that wait for a worker. */
  get waiting(): number[] {
    return this.outcomes.flatMap((outcome, id) => (outcome === null ? [id] : []));
  }

  ask(kind: Kind): void {
    this.kinds.push(kind);
    this.outcomes.push(this.open ? null : "CLOSED");
    this.run();
  }

  /** A worker answers all the requests it can. */
  run(): void {
    if (!this.hasWorker) return;
    for (const id of this.waiting) {
      if (this.kinds[id] === "echo") this.outcomes[id] = `ok ${id}`;
      if (this.kinds[id] === "throw") this.outcomes[id] = `REMOTE ${id}`;
    }
  }

  settle(ids: number[], outcome: string): void {
    for (const id of ids) this.outcomes[id] = outcome;
  }
}

class Real {
  readonly space = new Workspace();
  bus!: SlotBus;
  workers: SlotWorker[] = [];
  readonly outcomes: (string | null)[] = [];
  readonly settlements: number[] = [];
  readonly controllers: AbortController[] = [];
  readonly held = new Map<number, DeferredAnswer>();

  ask(kind: Kind): void {
    const id = this.outcomes.length;
    const controller = new AbortController();
    this.outcomes.push(null);
    this.settlements.push(0);
    this.controllers.push(controller);
    const settle = (outcome: string): void => {
      this.outcomes[id] = outcome;
      this.settlements[id]!++;
    };
    this.bus.request({ path: `/${kind}`, body: String(id) }, { signal: controller.signal }).then(
      (response) => settle(`ok ${response.text()}`),
      (error) => {
        if (error instanceof RemoteError) settle(`REMOTE ${error.message.slice(-String(id).length)}`);
        else settle(error instanceof SlotbusError ? error.code : String(error));
      },
    );
  }

  async addWorker(): Promise<void> {
    const worker = await this.space.worker((request) => {
      const id = Number(request.text());
      if (request.path === "/echo") return request.body;
      if (request.path === "/throw") throw new Error(`told to: ${id}`);
      this.held.set(id, request.defer());
      return undefined;
    });
    this.workers.push(worker);
    await this.bus.ready({ workers: this.workers.length });
  }

  /** Expects that every request settled once or still waits, as the model says. */
  async agrees(model: Model): Promise<void> {
    await until(() => this.outcomes.every((outcome, id) => outcome === model.outcomes[id]), "as the model says", 5_000);
    await new Promise((done) => setImmediate(done));
    expect(this.outcomes).toEqual(model.outcomes);
    expect(this.settlements).toEqual(model.outcomes.map((outcome) => (outcome === null ? 0 : 1)));
  }
}

class Step implements fc.AsyncCommand<Model, Real> {
  constructor(
    readonly name: string,
    readonly possible: (model: Model) => boolean,
    readonly act: (model: Model, real: Real) => void | Promise<void>,
  ) {}
  check = (model: Readonly<Model>): boolean => this.possible(model);
  toString = (): string => this.name;
  async run(model: Model, real: Real): Promise<void> {
    await this.act(model, real);
    await real.agrees(model);
  }
}

const always = (): boolean => true;

const commands = [
  fc.constantFrom<Kind>("echo", "throw", "later").map(
    (kind) =>
      new Step(`ask ${kind}`, always, (model, real) => {
        model.ask(kind);
        real.ask(kind);
      }),
  ),
  fc.nat().map(
    (n) =>
      new Step(`answer ${n}`, always, async (model, real) => {
        const later = model.waiting.filter((id) => model.kinds[id] === "later");
        if (later.length === 0 || !model.hasWorker) return;
        const id = later[n % later.length]!;
        await until(() => real.held.has(id), "the handler has it");
        expect(real.held.get(id)!(String(id))).toBe("sent");
        expect(real.held.get(id)!("again")).toBe("duplicate");
        model.settle([id], `ok ${id}`);
      }),
  ),
  fc.nat().map(
    (n) =>
      new Step(`abort ${n}`, always, async (model, real) => {
        const { waiting } = model;
        if (waiting.length === 0) return;
        const id = waiting[n % waiting.length]!;
        if (model.hasWorker) await until(() => real.held.has(id), "the handler has it");
        real.controllers[id]!.abort(`aborted ${id}`);
        model.settle([id], `aborted ${id}`);
        if (model.hasWorker) expect(real.held.get(id)!("late")).toBe("late");
      }),
  ),
  fc.constant(
    new Step(
      "a worker comes",
      (model) => model.open,
      async (model, real) => {
        if (real.workers.length >= 3) return;
        await real.addWorker();
        model.hasWorker = true;
        model.run();
      },
    ),
  ),
  fc.constant(
    new Step("the workers go", always, async (model, real) => {
      const had = model.waiting.filter(() => model.hasWorker);
      for (const id of had) await until(() => real.held.has(id), "the handler has it");
      await Promise.all(real.workers.map((worker) => worker.close({ timeout: 1 })));
      real.workers = [];
      model.hasWorker = false;
      model.settle(had, "WORKER_DIED");
      if (model.open) await until(() => real.bus.workers.length === 0, "the client knows");
    }),
  ),
  fc.constant(
    new Step("the bus closes", always, async (model, real) => {
      await real.bus.close({ timeout: 1 });
      model.settle(model.waiting, "CLOSED");
      model.open = false;
      model.hasWorker = false;
    }),
  ),
];

test("for any calls in any order, each request settles once, as a model of the API says", async () => {
  const sequence = fc.commands(commands, { maxCommands: 30 });
  const property = fc.asyncProperty(sequence, async (steps) => {
    const real = new Real();
    await using _ = real.space;
    real.bus = await real.space.bus({ timeout: Infinity });
    await fc.asyncModelRun(() => ({ model: new Model(), real }), steps);
  });
  await fc.assert(property, { numRuns: 200, endOnFailure: false });
}, 120_000);
