/** Requests that a worker leaves unclaimed move to other workers. */

import { expect, test } from "bun:test";
import { RequestTimeoutError, type SlotBus } from "../src/index.ts";
import type { Exchange } from "../src/bus/exchange.ts";
import { systemClock } from "../src/clock.ts";
import type { MemoryConnection } from "../src/wires/memory/connection.ts";
import { Moves } from "../src/wires/memory/moves.ts";
import { Stall } from "../src/wires/memory/stall.ts";
import type { LinkHandle } from "../src/native/client.ts";
import { type Child, rejection, stop, until, Workspace } from "./support.ts";

/** Starts workers one after the other: a bus without load chooses the first of them. */
async function start(space: Workspace, bus: SlotBus, count: number): Promise<Child[]> {
  const children: Child[] = [];
  for (let n = 1; n <= count; n++) {
    children.push(space.child("worker.ts"));
    await bus.ready({ workers: n });
  }
  await Promise.all(bus.workers.map(({ id }) => bus.request({ path: "/warm" }, { worker: id })));
  return children;
}

function idOf(bus: SlotBus, { pid }: Child): number {
  return bus.workers.find((worker) => worker.pid === pid)!.id;
}

/** Blocks the event loop of a worker. Resolves when its handler runs; the result settles when it has ended. */
async function block(bus: SlotBus, child: Child, ms: number): Promise<{ over: Promise<unknown> }> {
  const over = bus.request({ path: "/block", query: `${ms}` }, { worker: idOf(bus, child) });
  await child.line("got /block");
  return { over };
}

/** Sends requests at once. Expects that workers other than `not` run each of them once, and quickly. */
async function expectOthers(bus: SlotBus, children: readonly Child[], not: Child): Promise<void> {
  const paths = Array.from({ length: 60 }, (_, n) => `/r${n}`);
  const began = performance.now();
  const answers = await Promise.all(paths.map((path) => bus.request({ path }, { timeout: 20_000 })));
  expect(performance.now() - began).toBeLessThan(700);
  expect(answers.filter(({ workerPid }) => workerPid === not.pid)).toEqual([]);
  expect(bus.stats().moves).toBeGreaterThan(5); // otherwise none waited behind that worker
  const run = (): string[] => children.flatMap(({ lines }) => lines.filter((line) => line.startsWith("got /r")));
  await until(() => run().length >= 60, "the children reported the requests");
  expect(run().toSorted()).toEqual(paths.map((path) => `got ${path}`).toSorted());
}

test("requests that a worker with a blocked event loop has not claimed are run by others, each once", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const children = await start(space, bus, 4);
  const { over } = await block(bus, children[0]!, 1_500);
  await expectOthers(bus, children, children[0]!);
  await over;
  expect(bus.metrics()).toContain(`slotbus_moves_total{bus="${bus.name}"} ${bus.stats().moves}\n`);
}, 30_000);

test("requests to a stopped worker move, and it gets requests again after it continues", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const children = await start(space, bus, 3);
  await stop(children[0]!);
  await expectOthers(bus, children, children[0]!);
  children[0]!.process.kill("SIGCONT");
  const deadline = performance.now() + 5_000;
  while ((await bus.request({ path: "/" })).workerPid !== children[0]!.pid) {
    expect(performance.now()).toBeLessThan(deadline);
  }
}, 30_000);

test("pinned, borrowed and blocking requests wait for their worker", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const [first, second] = (await start(space, bus, 2)) as [Child, Child];
  const load = Array.from({ length: 8 }, () =>
    bus.request({ path: "/slow", query: "600" }, { worker: idOf(bus, second) }),
  );
  await until(
    () => second.lines.filter((line) => line === "got /slow").length === 8,
    "the second worker has claimed all",
  );
  const { over } = await block(bus, first, 300);
  const pinned = bus.request({ path: "/" }, { worker: idOf(bus, first) });
  const borrowed = bus.borrow({ path: "/" });
  await Bun.sleep(50); // many looks
  using lent = await borrowed;
  expect([(await pinned).workerPid, lent.workerPid]).toEqual([first.pid, first.pid]);
  await over;
  const { over: again } = await block(bus, first, 100);
  expect(bus.requestSync({ path: "/" }).workerPid).toBe(first.pid);
  await Promise.all([again, ...load]);
  expect(bus.stats().moves).toBe(0);
}, 30_000);

test("the timeout of a request goes on when it moves", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const [first] = (await start(space, bus, 1)) as [Child];
  await stop(first);
  const began = performance.now();
  const late = rejection<RequestTimeoutError>(bus.request({ path: "/hang" }, { timeout: 1_500 }));
  await Bun.sleep(400);
  await space.child("worker.ts").line("got /hang");
  expect(await late).toBeInstanceOf(RequestTimeoutError);
  const ms = performance.now() - began;
  expect((await late).mayHaveExecuted).toBe(true);
  expect(ms).toBeGreaterThan(1_490);
  expect(ms).toBeLessThan(1_800);
  expect(bus.stats().moves).toBe(1);
}, 30_000);

test("room that another worker gets goes to moving requests before queued ones", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const [first, second] = (await start(space, bus, 2)) as [Child, Child];
  const send = (count: number, worker?: number): Promise<unknown>[] =>
    Array.from({ length: count }, () =>
      bus.request({ path: "/slow", query: "100" }, worker === undefined ? {} : { worker }),
    );
  const { over } = await block(bus, first, 2_000);
  const load = send(32, idOf(bus, second));
  let last = "";
  const unclaimed = Promise.all(send(31)).then(() => (last = "unclaimed"));
  const queued = Promise.all(send(40)).then(() => (last = "queued"));
  expect(bus.stats().queued).toBe(40);
  await Promise.all([...load, unclaimed, queued]);
  expect(last).toBe("queued");
  expect(bus.stats().moves).toBeGreaterThan(30);
  await over;
}, 30_000);

test("a request moves at most three times", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const children = await start(space, bus, 5);
  for (const child of children.slice(0, 4)) await stop(child);
  expect(await rejection(bus.request({ path: "/late" }, { timeout: 200 }))).toBeInstanceOf(RequestTimeoutError);
  expect(bus.stats().moves).toBe(3);
  expect(children[4]!.lines).not.toContain("got /late");
  const next = await bus.request({ path: "/next" });
  expect(next.workerPid).toBe(children[4]!.pid);
}, 30_000);

test("a request that waits behind the only worker moves to the next worker that attaches, with its streamed body", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const [first] = (await start(space, bus, 1)) as [Child];
  await stop(first);
  const body = async function* (): AsyncGenerator<string> {
    yield "in ";
    yield "parts";
  };
  const answer = bus.request({ path: "/bytes", body: body() }, { timeout: 20_000 });
  await Bun.sleep(50); // looks would come each 2 ms
  expect(bus.stats().moves).toBe(0);
  const second = space.child("worker.ts");
  expect([(await answer).text(), (await answer).workerPid]).toEqual(["in parts", second.pid]);
  expect(bus.stats().moves).toBe(1);
}, 30_000);

/** Connections with `late` unclaimed exchanges, and a clock whose timers the test fires. */
class Stage {
  now = 0;
  timers: (() => void)[] = [];
  readonly recalled: number[] = [];
  readonly asked: number[] = [];
  readonly observed: boolean[] = [];
  readonly connections: MemoryConnection[] = [];
  readonly moves: Moves;

  constructor() {
    const timer = { close: () => {}, ref: () => {}, unref: () => {} };
    const after = (_: number, done: () => void) => (this.timers.push(done), timer);
    this.moves = new Moves({ ...systemClock, now: () => this.now, after }, this.connections, () => {});
  }

  /** `isFixed`: the exchanges must stay. */
  attach(room: number, late: readonly number[] = [], isFixed = false): { isDoubtful: boolean } {
    const exchanges: Exchange[] = [];
    const connection = {
      room,
      load: 1,
      exchanges,
      isDoubtful: false,
      stall: {
        suspect: () => (connection.isDoubtful = true),
        observe: (isBusy: boolean) => (this.observed.push(isBusy), false),
      },
      recall: ({ serial }: Exchange) => void this.recalled.push(serial),
      link: {
        waits: (ms: number, out: Uint32Array) => {
          this.asked.push(ms);
          out.set([late.length, ...late.keys()]);
          return late.length;
        },
      },
    };
    for (const serial of late)
      exchanges.push({ serial, isMovable: !isFixed, carrier: connection } as unknown as Exchange);
    this.connections.push(connection as unknown as MemoryConnection);
    this.moves.workers++;
    return connection;
  }

  /** Fires the timers, `ms` later. */
  pass(ms: number): void {
    this.now += ms;
    for (const done of this.timers.splice(0)) done();
  }
}

test("one worker needs no timer; with two, a timer runs while a request is unclaimed", () => {
  const one = new Stage();
  one.attach(1, [1]);
  one.moves.watch();
  expect(one.timers.length).toBe(0);
  const idle = new Stage();
  idle.attach(1);
  idle.attach(1);
  for (let i = 0; i < 3; i++) idle.moves.watch();
  expect(idle.timers.length).toBe(1);
  idle.pass(2);
  expect(idle.timers.length).toBe(0);
  idle.attach(1, [1], true);
  idle.moves.watch();
  idle.pass(2);
  expect([idle.timers.length, idle.recalled]).toEqual([1, []]);
});

test("no more requests move than other workers have room for, the oldest of all workers, the newest of them first", () => {
  const stage = new Stage();
  stage.attach(9, [5, 2]);
  stage.attach(9, [4, 1, 7]);
  stage.attach(3);
  stage.moves.look(2, true);
  expect([stage.recalled, stage.moves.isShort]).toEqual([[4, 2, 1], true]);
});

test("a look between two timers takes requests only from workers that were doubtful before", () => {
  const stage = new Stage();
  const doubtful = stage.attach(9, [5]);
  stage.attach(9, [3]);
  stage.moves.look();
  expect(stage.recalled).toEqual([]);
  doubtful.isDoubtful = true;
  stage.moves.look();
  expect([stage.recalled, stage.moves.isShort]).toEqual([[5], false]);
});

test("a look that is late takes only requests that were sent before the look before it", () => {
  const stage = new Stage();
  stage.attach(1, [1]);
  stage.attach(1);
  stage.moves.watch();
  stage.pass(2);
  stage.pass(50);
  expect(stage.asked).toEqual([2, 2, 51, 51]);
});

test("a worker that left requests unclaimed is doubtful until it parks, or claims or completes a request", () => {
  const link = { isParked: false, steps: 0, hasAdvanced: () => link.steps-- > 0 };
  const stall = new Stall(link as unknown as LinkHandle);
  const look = (): boolean => ((link.steps = Math.max(0, link.steps)), stall.isDoubtful);
  expect(look()).toBe(false);
  link.steps = 1; // before the requests were found
  stall.suspect();
  expect([look(), look()]).toEqual([true, true]);
  link.steps = 1;
  expect([look(), look()]).toEqual([false, false]);
  stall.suspect();
  expect(look()).toBe(true);
  link.isParked = true;
  expect(look()).toBe(false);
  link.isParked = false;
  expect(look()).toBe(false);
});

test("a worker with requests is silent when it has not responded from one timed look to the next, until it responds", () => {
  const stall = new Stall({} as LinkHandle);
  const observe = (isBusy: boolean): boolean[] => [stall.observe(isBusy), stall.isSilent];
  expect([observe(false), observe(true)]).toEqual([
    [false, false],
    [false, true],
  ]);
  stall.answered();
  expect(stall.isSilent).toBe(false);
  expect([observe(true), observe(true), observe(false)]).toEqual([
    [true, false], // it has responded; it may have stopped since, so there is another look
    [false, true],
    [false, false],
  ]);
  const stage = new Stage();
  stage.attach(1, [1]);
  stage.attach(1);
  stage.moves.look();
  expect(stage.observed).toEqual([]);
  stage.moves.watch();
  stage.pass(2);
  expect(stage.observed).toEqual([true, true]);
});

test("a worker that was fast and has stopped responding gets no more requests while another one responds", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  let hangs = false;
  const first = await space.worker(() => (hangs ? new Promise<string>(() => {}) : "first"));
  await bus.ready();
  await space.worker(() => "second");
  await bus.ready({ workers: 2 });
  for (let n = 0; n < 100; n++) await bus.request({ path: "/" }); // the bus learns how fast it is
  hangs = true;
  const abort = new AbortController();
  const stuck = rejection(bus.request({ path: "/" }, { signal: abort.signal }));
  await until(() => first.running === 1, "the request hangs");
  await Bun.sleep(20); // ten times as long as a worker may be silent
  const said: string[] = [];
  for (let n = 0; n < 5; n++) {
    const answer = bus.request({ path: "/" }, { timeout: 500 });
    said.push(
      await answer.then(
        (response) => response.text(),
        (error: Error) => error.name,
      ),
    );
  }
  expect(said).toEqual(Array.from({ length: 5 }, () => "second"));
  expect(first.running).toBe(1);
  abort.abort();
  await stuck;
});
