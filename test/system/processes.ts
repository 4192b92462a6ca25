/** Children, threads and exits: what they inherit and what they leave behind. */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { type Checks, expect, needTool, note, Place, Program, program, run, until } from "./checks.ts";
import { expectWell, Member } from "./fleet.ts";

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "latin1"));
  } catch {
    return false;
  }
}

/** Returns the descriptors of slotbus that a process has open: files, memory, sockets, pidfds. */
function inherited(pid: number): string[] {
  const targets = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return ""; // already closed: a starting program opens and closes its libraries
    }
  });
  return targets.filter((target) => /slotbus|socket:|system\.(lock|sock|fleet)|pidfd|statm/.test(target));
}

function mapsRegion(pid: number): boolean {
  return readFileSync(`/proc/${pid}/maps`, "latin1").includes("memfd:slotbus");
}

/** Makes a program start a child, which is killed on disposal. */
async function childOf(parent: Program, how: string): Promise<{ pid: number } & Disposable> {
  await parent.tell(how);
  const pid = Number((await parent.lineFrom("child ")).slice(6));
  expect(isAlive(pid), `${how}: the child ended early`);
  return { pid, [Symbol.dispose]: () => void (isAlive(pid) && process.kill(pid, "SIGKILL")) };
}

/** Starts a client and a worker that has attached to it. */
async function pair(place: Place): Promise<{ client: Program; worker: Program } & AsyncDisposable> {
  const client = new Program(program("client", place.directory));
  await client.expectLine("listening");
  const worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await client.lineFrom("joined");
  const end = async (): Promise<void> => {
    await worker[Symbol.asyncDispose]();
    await client[Symbol.asyncDispose]();
  };
  return { client, worker, [Symbol.asyncDispose]: end };
}

async function childrenInheritNothing(): Promise<void> {
  using place = new Place();
  await using both = await pair(place);
  expect(
    inherited(both.client.pid).length > 3 && mapsRegion(both.client.pid),
    "the client has no descriptor that a child could inherit",
  );
  for (const parent of [both.client, both.worker]) {
    for (const how of ["spawn", "system"]) {
      using child = await childOf(parent, how);
      await until(() => readlinkSync(`/proc/${child.pid}/exe`).endsWith("sleep"), "the child runs another program");
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
    using child = await childOf(both.client, how);
    both.client.kill("SIGKILL");
    await both.worker.expectLine("disconnected");
    await using heir = new Program(program("client", place.directory));
    await heir.expectLine("listening");
    expect(isAlive(child.pid), `the child by ${how} has ended, so it proves nothing`);
  }
}

/** A fork without exec always has its parent's descriptors, but here no region. */
async function forkHasNoRegion(): Promise<void> {
  using place = new Place();
  const library = join(place.folder, "fork.so");
  await run([needTool("gcc"), "-shared", "-fPIC", "-o", library, join(import.meta.dir, "fork.c")]);
  {
    await using both = await pair(place);
    using child = await childOf(both.client, `fork ${library}`);
    using another = await childOf(both.worker, `fork ${library}`);
    for (const { pid } of [child, another]) expect(!mapsRegion(pid), "a fork maps a region");
    await both.client.order("go 1000");
    both.client.kill("SIGKILL");
    await both.client.ended();
    await using early = new Program(program("client", place.directory));
    await early.expectLine("error BUS_EXISTS");
    process.kill(child.pid, "SIGKILL");
    await until(() => !isAlive(child.pid), "the fork has ended");
    await both.worker.lineFrom("disconnected");
  }
  await using heir = new Program(program("client", place.directory));
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
    await both.client.tell("workers");
    await both.client.expectLine("workers 2");
    await both.client.lineFrom("done");
    await both.client.order("go 100");
    await threads.order("terminate");
    for (let two = true; two;) {
      await both.client.tell("workers");
      two = (await both.client.lineFrom("workers")) === "workers 2";
      await both.client.lineFrom("done");
    }
    await both.client.order("go 100"); // by the worker that is left
  }
  const left = inherited(threads.pid).length;
  note(`${left - baseline} descriptors left after five terminated workers`);
  expect(left === baseline, `five terminated workers leave ${left - baseline} descriptors`);
}

/** A terminated thread runs no code of ours. Its workers are disconnected; its name is free when its process ends. */
async function clientThreadIsTerminated(): Promise<void> {
  using place = new Place();
  {
    await using threads = new Program(program("threads", place.directory));
    await threads.expectLine("waiting");
    await threads.order("start client");
    await using worker = new Program(program("worker", place.directory));
    await worker.expectLine("attached");
    await threads.order("terminate");
    await worker.expectLine("disconnected");
    await using early = new Program(program("client", place.directory));
    await early.expectLine("error BUS_EXISTS");
  }
  await using heir = new Program(program("client", place.directory));
  await heir.expectLine("listening");
}

async function exitInAHandler(): Promise<void> {
  using place = new Place();
  await using both = await pair(place);
  await both.client.tell("ask /exit x 5000");
  const line = await both.client.lineFrom("asked");
  expect(line.endsWith("WORKER_DIED true"), `the caller gets: ${line}`);
  expect((await both.worker.ended()) === 7, "the exit code was changed");
  await using heir = new Program(program("worker", place.directory));
  await heir.expectLine("attached");
  await both.client.order("go 10");
}

// ---- members of a fleet ----------------------------------------------------------------------------------------

function mapsFleet(pid: number): boolean {
  return readFileSync(`/proc/${pid}/maps`, "latin1").includes("system.fleet");
}

async function childrenOfAMember(): Promise<void> {
  using place = new Place();
  await using witness = await Member.join(place);
  for (const how of ["spawn", "system"]) {
    await using member = await Member.join(place);
    await member.order("listen");
    const token = await member.claim("held");
    using child = await childOf(member, how);
    await until(() => readlinkSync(`/proc/${child.pid}/exe`).endsWith("sleep"), "the child runs another program");
    expect(
      inherited(member.pid).length > 1 && mapsFleet(member.pid),
      "the member has no descriptor that a child could inherit",
    );
    const list = inherited(child.pid);
    expect(list.length === 0 && !mapsFleet(child.pid), `a child by ${how} inherits ${list}`);
    member.kill("SIGKILL");
    await member.ended();
    expect((await witness.members()).length === 1, "a killed member whose child lives counts as alive");
    expect((await witness.claim("held")) > token, "the new token is not above a dead member's token");
    await witness.release("held");
    expect(isAlive(child.pid), `the child by ${how} has ended, so it proves nothing`);
  }
}

/** A fork has its parent's descriptors but no mapping. A member that leaves has left although its fork lives. */
async function forkOfAMember(): Promise<void> {
  using place = new Place();
  const library = join(place.folder, "fork.so");
  await run([needTool("gcc"), "-shared", "-fPIC", "-o", library, join(import.meta.dir, "fork.c")]);
  await using witness = await Member.join(place);
  await using leaver = await Member.join(place);
  await using killed = await Member.join(place);
  using first = await childOf(leaver, `fork ${library}`);
  using second = await childOf(killed, `fork ${library}`);
  for (const { pid } of [first, second]) expect(!mapsFleet(pid), "a fork maps the fleet");
  expect((await witness.members()).length === 3, "a member that forked is no longer listed");
  await expectWell(leaver, killed);
  await leaver.order("leave");
  expect((await witness.members()).length === 2 && isAlive(first.pid), "a fork keeps the index of a member that left");
  await killed.claim("held");
  killed.kill("SIGKILL");
  await killed.ended();
  expect((await witness.members()).length === 2, "a fork that holds the file does not count"); // as documented
  process.kill(second.pid, "SIGKILL");
  await until(() => !isAlive(second.pid), "the fork has ended");
  expect((await witness.members()).length === 1, "an index is still taken although its member and the fork have ended");
  await witness.claim("held");
}

async function stoppedMemberIsAlive(): Promise<void> {
  using place = new Place();
  const options = JSON.stringify({ maxMembers: 2, rings: { events: {} } });
  await using one = await Member.join(place, options);
  await using stopped = await Member.join(place, options);
  await stopped.order("listen");
  const token = await stopped.claim("long");
  await stopped.claim("short", 300);
  stopped.kill("SIGSTOP");
  await until(() => /^State:\s+T/m.test(readFileSync(`/proc/${stopped.pid}/status`, "latin1")), "it is stopped");
  expect((await one.members()).includes(stopped.pid), "a stopped member counts as dead");
  expect((await one.yields("long")) === token, "a stopped member lost its lease");
  await one.order("publish 3"); // does not wait for the stopped member
  await one.order("wait short");
  await one.lineFrom("won short"); // its deadline has passed
  await using late = await Member.start(program("member", place.directory));
  await late.refused("FLEET_FULL");
  stopped.kill("SIGCONT");
  for (let n = 0; n < 3; n++) await stopped.lineFrom("event");
  await stopped.release("long");
  expect((await stopped.answer("release short", "released")).endsWith("false"), "it released a lease that had expired");
  await expectWell(one, stopped);
}

export const checks: Checks = {
  "a child of a client or worker, from Bun.spawn or libc, inherits no descriptor and no region": childrenInheritNothing,
  "a child that outlives a killed client does not hold its name": childDoesNotHoldTheName,
  "a fork that never execs has no region, and holds the name only while it lives": forkHasNoRegion,
  "a worker in a terminated thread has left its client and leaves no descriptor": workerThreadIsTerminated,
  "a terminated client thread disconnects its workers; its name is free when the process has ended":
    clientThreadIsTerminated,
  "process.exit in a handler counts as the worker's death and keeps its exit code": exitInAHandler,
  "a child of a member inherits no descriptor and no fleet, and does not keep a killed member alive": childrenOfAMember,
  "a fork that never execs keeps the index of a killed member, but not of a member that left": forkOfAMember,
  "a stopped member counts as alive: it keeps its index, and its leases until they expire": stoppedMemberIsAlive,
};
