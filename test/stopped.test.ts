/** A stopped client at a full worker: its session ends after a limit, and no other does. */

import { expect, test } from "bun:test";
import type { Clock } from "../src/clock.ts";
import { type Occupant, StoppedClients } from "../src/wires/memory/stopped.ts";
import { stop, Workspace } from "./support.ts";

async function* endless(): AsyncGenerator<Uint8Array> {
  for (;;) yield new Uint8Array(65_536);
}

test("a stopped client loses its streams at a full worker after 10 s; a client that runs and does not read keeps them", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  const bus = await space.client();
  const signals: AbortSignal[] = [];
  const worker = await space.worker(
    ({ path, body, signal }) => {
      if (path !== "/stream") return body;
      signals.push(signal);
      return { body: endless() };
    },
    { concurrency: 2 },
  );
  await bus.ready();
  const ends: string[] = [];
  worker.on("disconnected", (error) => ends.push((error as { code?: string }).code!));
  const [stopped, slow] = [space.child("holding-client.ts"), space.child("holding-client.ts")];
  await stopped.line("holds", 10_000);
  await slow.line("holds", 10_000);
  await stop(stopped);
  const started = performance.now();
  const answer = await bus.request({ path: "/", body: "waits" }, { timeout: 25_000 });
  const waited = performance.now() - started;
  expect([answer.text(), ends]).toEqual(["waits", ["CLIENT_STOPPED"]]);
  expect(waited).toBeGreaterThan(8_500);
  expect(waited).toBeLessThan(20_000);
  expect(signals.map(({ aborted }) => aborted).sort()).toEqual([false, true]);
  process.kill(slow.pid, "SIGUSR2");
  expect(await slow.line("read", 5_000)).toBe("read on");
  process.kill(stopped.pid, "SIGCONT");
  process.kill(stopped.pid, "SIGUSR2");
  expect(await stopped.line("ended", 5_000)).toBe("ended WORKER_DIED");
  expect(await stopped.line("answer", 15_000)).toBe("answer again");
}, 60_000);

/** Clients of a worker, in time that the test moves. */
class Stage {
  areWaitedFor = true;
  occupants: (Occupant & { ticks: boolean })[] = [];
  readonly ended: [Occupant, number][] = [];
  now = 0;
  due: (() => void) | null = null;
  readonly clients = new StoppedClients(this.#clock, this);

  get #clock(): Clock {
    const after = (_: number, done: () => void): { close(): void; ref(): void; unref(): void } => {
      this.due = done;
      return { close: () => void (this.due = null), ref() {}, unref() {} };
    };
    return { now: () => this.now, after } as unknown as Clock;
  }

  client(ticks: boolean, hasStreams = true): Occupant {
    const one = { ticks, hasStreams, hasTicked: () => one.ticks };
    this.occupants.push(one);
    return one;
  }

  end(occupant: Occupant, ms: number): void {
    this.ended.push([occupant, ms]);
    this.occupants = this.occupants.filter((one) => one !== occupant);
  }

  /** Makes the next look, `ms` later. */
  look(ms = 1_000): void {
    this.now += ms;
    const { due } = this;
    this.due = null;
    due!();
  }
}

test("only a client with streams that stands still for 10 s ends", () => {
  const stage = new Stage();
  stage.client(true);
  stage.client(false, false);
  const still = stage.client(false);
  stage.clients.watch();
  for (let i = 0; i < 9; i++) stage.look();
  expect(stage.ended).toEqual([]);
  for (let i = 0; i < 5; i++) stage.look();
  expect(stage.ended).toEqual([[still, 10_000]]);
});

test("a tick ends the count, and a look that comes late counts as two", () => {
  const stage = new Stage();
  const client = stage.client(false) as Occupant & { ticks: boolean };
  stage.clients.watch();
  for (let i = 0; i < 9; i++) stage.look();
  client.ticks = true;
  stage.look();
  client.ticks = false;
  for (let i = 0; i < 4; i++) stage.look(60_000);
  expect(stage.ended).toEqual([]);
  stage.look(60_000);
  expect(stage.ended).toEqual([[client, 10_000]]);
});

test("no timer runs while the worker has room, and time before that does not count", () => {
  const stage = new Stage();
  stage.client(false);
  stage.areWaitedFor = false;
  stage.clients.watch();
  expect(stage.due).toBeNull();
  stage.areWaitedFor = true;
  stage.clients.watch();
  for (let i = 0; i < 9; i++) stage.look();
  stage.areWaitedFor = false;
  stage.look();
  expect(stage.due).toBeNull();
  stage.areWaitedFor = true;
  stage.clients.watch();
  for (let i = 0; i < 9; i++) stage.look();
  expect(stage.ended).toEqual([]);
});
