/** An attacher of a worker, alone: how it returns to the address of a client whose session has ended. */

import { expect, test } from "bun:test";
import type { ResolvedWorkerOptions } from "../src/bus/worker-options.ts";
import { type Clock, systemClock } from "../src/clock.ts";
import { Attacher } from "../src/wires/memory/attacher.ts";
import type { WorkerHandle } from "../src/native/worker.ts";
import { until, Workspace } from "./support.ts";

test("a successor whose knock came before the end of the old session was known is attached without a pause", async () => {
  await using space = new Workspace();
  const { name, directory } = space;
  const reconnect = { initial: 60_000, max: 60_000 }; // the pause, without a successor
  const options = { name, directory, shared: false, concurrency: 4, reconnect } as unknown as ResolvedWorkerOptions;
  let knocks = 0;
  const immediate = (turn: () => void): void => {
    knocks++; // the attacher uses it for nothing else
    systemClock.immediate(turn);
  };
  const clock: Clock = Object.assign(Object.create(systemClock), { immediate });
  const sessions: [WorkerHandle, string][] = [];
  const attacher = new Attacher(options, clock, {
    attached: (handle, address) => void sessions.push([handle, address]),
    refused: (error) => expect(error).toBeUndefined(),
  });
  const first = await space.client();
  await attacher.look();
  await first.close({ timeout: 0 });
  await space.client(); // takes the same number
  await until(() => knocks > 0, "the knock was heard");
  await new Promise<void>((resolve) => systemClock.immediate(resolve)); // the look after the knock
  expect(sessions.map(([, address]) => address)).toEqual([`${name}@0`]);
  attacher.left(`${name}@0`);
  await until(() => sessions.length === 2, "the successor is attached", 2_000).catch(() => {});
  attacher.close();
  for (const [handle] of sessions) handle.close(true);
  expect(sessions.map(([, address]) => address)).toEqual([`${name}@0`, `${name}@0`]);
});
