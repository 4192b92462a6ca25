/** Children, threads and exits: what they inherit, and what they leave. */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { type Checks, expect, needTool, note, Place, Program, program, run, until } from "./checks.ts";

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "latin1"));
  } catch {
    return false;
  }
}

/** What a process has open of slotbus: its files, memory and sockets, pidfds. */
function inherited(pid: number): string[] {
  const targets = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  return targets.filter((target) => /slotbus|socket:|system\.(lock|sock)|pidfd|statm/.test(target));
}

function mapsRegion(pid: number): boolean {
  return readFileSync(`/proc/${pid}/maps`, "latin1").includes("memfd:slotbus");
}

/** Has a program start a child; it is killed at the end. */
async function childOf(parent: Program, how: string): Promise<{ pid: number } & Disposable> {
  await parent.tell(how);
  const pid = Number((await parent.lineFrom("child ")).slice(6));
  expect(isAlive(pid), `${how}: the child has ended`);
  return { pid, [Symbol.dispose]: () => void (isAlive(pid) && process.kill(pid, "SIGKILL")) };
}

/** A hub and its worker, joined. */
async function pair(place: Place): Promise<{ hub: Program; worker: Program } & AsyncDisposable> {
  const hub = new Program(program("hub", place.directory));
  await hub.expectLine("listening");
  const worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await hub.lineFrom("joined");
  const end = async (): Promise<void> => {
    await worker[Symbol.asyncDispose]();
    await hub[Symbol.asyncDispose]();
  };
  return { hub, worker, [Symbol.asyncDispose]: end };
}

async function childrenInheritNothing(): Promise<void> {
  using place = new Place();
  await using both = await pair(place);
  expect(inherited(both.hub.pid).length > 3 && mapsRegion(both.hub.pid), "the hub has nothing to be inherited");
  for (const parent of [both.hub, both.worker]) {
    for (const how of ["spawn", "system"]) {
      using child = await childOf(parent, how);
      await until(
        () => readlinkSync(`/proc/${child.pid}/exe`).endsWith("sleep"),
        "the child has become another program",
      );
      const list = inherited(child.pid);
      expect(list.length === 0, `a child by ${how} inherits ${list}`);
      expect(!mapsRegion(child.pid), `a child by ${how} maps a region`);
    }
  }
}

async function childDoesNotHoldTheName(): Promise<void> {
  using place = new Place();
  for (const how of ["spawn", "system"]) {
    await using both = await pair(place);
    using child = await childOf(both.hub, how);
    both.hub.kill("SIGKILL");
    await both.worker.expectLine("disconnected");
    await using heir = new Program(program("hub", place.directory));
    await heir.expectLine("listening");
    expect(isAlive(child.pid), `the child by ${how} has ended, so it proves nothing`);
  }
}

/** A fork without exec has the parent's descriptors, by the nature of fork, but no region. */
async function forkHasNoRegion(): Promise<void> {
  using place = new Place();
  const library = join(place.folder, "fork.so");
  await run([needTool("gcc"), "-shared", "-fPIC", "-o", library, join(import.meta.dir, "fork.c")]);
  {
    await using both = await pair(place);
    using child = await childOf(both.hub, `fork ${library}`);
    using another = await childOf(both.worker, `fork ${library}`);
    for (const { pid } of [child, another]) expect(!mapsRegion(pid), "a fork maps a region");
    await both.hub.order("go 1000");
    both.hub.kill("SIGKILL");
    await both.hub.ended();
    await using early = new Program(program("hub", place.directory));
    await early.expectLine("error BusExistsError");
    process.kill(child.pid, "SIGKILL");
    await until(() => !isAlive(child.pid), "the fork has ended");
    await both.worker.lineFrom("disconnected");
  }
  await using heir = new Program(program("hub", place.directory));
  await heir.expectLine("listening");
}

async function workerThreadIsTerminated(): Promise<void> {
  using place = new Place();
  await using both = await pair(place);
  await using threads = new Program(program("threads", place.directory));
  await threads.expectLine("waiting");
  const baseline = inherited(threads.pid).length;
  for (let life = 0; life < 5; life++) {
    await threads.order("start worker");
    await both.hub.tell("workers");
    await both.hub.expectLine("workers 2");
    await both.hub.lineFrom("done");
    await both.hub.order("go 100");
    await threads.order("terminate");
    for (let two = true; two;) {
      await both.hub.tell("workers");
      two = (await both.hub.lineFrom("workers")) === "workers 2";
      await both.hub.lineFrom("done");
    }
    await both.hub.order("go 100"); // by the worker that is left
  }
  const left = inherited(threads.pid).length;
  note(`${left - baseline} descriptors left after five terminated workers`);
  expect(left === baseline, `five terminated workers leave ${left - baseline} descriptors`);
}

/** Nothing of ours runs in a thread that is terminated: its workers hear, and its process' end gives the name back. */
async function hubThreadIsTerminated(): Promise<void> {
  using place = new Place();
  {
    await using threads = new Program(program("threads", place.directory));
    await threads.expectLine("waiting");
    await threads.order("start hub");
    await using worker = new Program(program("worker", place.directory));
    await worker.expectLine("attached");
    await threads.order("terminate");
    await worker.expectLine("disconnected");
    await using early = new Program(program("hub", place.directory));
    await early.expectLine("error BusExistsError");
  }
  await using heir = new Program(program("hub", place.directory));
  await heir.expectLine("listening");
}

async function exitInAHandler(): Promise<void> {
  using place = new Place();
  await using both = await pair(place);
  await both.hub.tell("ask /exit x 5000");
  const line = await both.hub.lineFrom("asked");
  expect(line.endsWith("WorkerDiedError true"), `the caller hears: ${line}`);
  expect((await both.worker.ended()) === 7, "the exit code was changed");
  await using heir = new Program(program("worker", place.directory));
  await heir.expectLine("attached");
  await both.hub.order("go 10");
}

export const checks: Checks = {
  "a child of a hub or worker, by Bun.spawn or by libc, inherits no descriptor and no region": childrenInheritNothing,
  "a child that lives on does not hold a killed hub's name": childDoesNotHoldTheName,
  "a fork that never execs has no region, and holds the name no longer than it lives": forkHasNoRegion,
  "a worker in a thread that is terminated has left its hub, and leaves no descriptor": workerThreadIsTerminated,
  "a hub in a thread that is terminated is heard of; its name is free when the process has ended":
    hubThreadIsTerminated,
  "process.exit in a handler is a death, with its own exit code": exitInAHandler,
};
