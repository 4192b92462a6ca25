/** Processes that run out of descriptors. */

import { readdirSync, readFileSync } from "node:fs";
import { type Checks, expect, limit, note, Place, Program, program, until } from "./checks.ts";
import { expectWell, Member } from "./fleet.ts";

const WATCH_MS = 2_000;
const TICKS_PER_SECOND = 100;

function descriptors(pid: number): number[] {
  return readdirSync(`/proc/${pid}/fd`).map(Number);
}

/** Limits a process so that it can open `free` more descriptors. */
async function leaveFree(pid: number, free: number): Promise<void> {
  const used = new Set(descriptors(pid));
  let top = 0;
  for (let left = free; left > 0 || used.has(top); top++) if (!used.has(top)) left--;
  await limit(pid, "nofile", top);
}

/** Resolves to the share of one processor that a process uses while `during` runs, in %. */
async function load(pid: number, during: Promise<unknown>): Promise<number> {
  const ticks = () => {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ");
    return Number(fields[11]) + Number(fields[12]);
  };
  const start = performance.now();
  const before = ticks();
  await during;
  return ((ticks() - before) / TICKS_PER_SECOND / ((performance.now() - start) / 1000)) * 100;
}

async function clientRunsOut(): Promise<void> {
  using place = new Place();
  await using client = new Program(program("client", place.directory));
  await client.expectLine("listening");
  await using worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await client.lineFrom("joined");
  await client.order("go 1000"); // Bun has opened its late descriptors
  await using other = new Program(program("patient", place.directory));
  await other.expectLine("waiting");
  const before = descriptors(client.pid).length;
  let refusals = 0;
  let free = 1; // for the connection that the client refuses
  for (; free < 12; free++) {
    await leaveFree(client.pid, free);
    await other.tell("open 0");
    const line = await other.line();
    if (line === "attached") break;
    expect(line.startsWith("error RESOURCE"), `with ${free} free the worker says: ${line}`);
    await other.line(); // done
    refusals++;
    await client.order("go 100");
    await until(() => descriptors(client.pid).length === before, "the refused worker's descriptors are closed");
    if (free === 1) {
      const share = await load(client.pid, Bun.sleep(WATCH_MS));
      note(`${share.toFixed(1)} % of a processor while one descriptor is left`);
      expect(share < 5, `a client with one descriptor left uses ${share} % of a processor`);
    }
  }
  note(`${refusals} refusals; a worker needs ${free} descriptors in its client`);
  expect(refusals > 1 && free < 12, "the refusals did not come from missing descriptors");
  await client.order("go 100");
}

async function exhaustedClientRecovers(): Promise<void> {
  using place = new Place();
  await using client = new Program(program("client", place.directory));
  await client.expectLine("listening");
  await using worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await client.lineFrom("joined");
  await client.order("go 1000");
  await leaveFree(client.pid, 0);
  const share = await load(client.pid, Bun.sleep(WATCH_MS));
  note(`${share.toFixed(1)} % of a processor without any descriptor`);
  expect(share < 5, `a client without descriptors uses ${share} % of a processor`);
  await using other = new Program(program("patient", place.directory));
  await other.expectLine("waiting");
  await other.tell("open 0"); // connects but is not accepted
  await client.order("go 1000");
  const spun = await load(client.pid, other.expectLine("error RESOURCE"));
  note(`${spun.toFixed(1)} % while a connection waits to be accepted: Bun's listener retries without a pause`);
  await limit(client.pid, "nofile", 1024);
  await other.tell("open 1000");
  await other.lineFrom("attached");
  await client.order("go 1000");
}

async function workerRunsOut(): Promise<void> {
  using place = new Place();
  await using client = new Program(program("client", place.directory));
  await client.expectLine("listening");
  await using worker = new Program(program("patient", place.directory));
  await worker.expectLine("waiting");
  let refusals = 0;
  for (let free = 0; free < 12; free++) {
    await leaveFree(worker.pid, free);
    await worker.tell("open 0");
    const line = await worker.line();
    if (line === "attached") break;
    expect(line.startsWith("error RESOURCE"), `with ${free} free the worker says: ${line}`);
    await worker.line(); // done
    refusals++;
  }
  note(`${refusals} refusals`);
  expect(refusals > 1, "the refusals did not come from missing descriptors");
  await client.lineFrom("joined");
  await client.order("go 100");
}

/** A member joins with more and more free descriptors; then it waits for events and for a lease without any. */
async function memberRunsOut(): Promise<void> {
  using place = new Place();
  await using other = await Member.join(place);
  await other.claim("taken");
  await using member = await Member.start(program("member", place.directory));
  const before = descriptors(member.pid).length;
  let refusals = 0;
  for (let free = 0; ; free++) {
    expect(free < 12, "with twelve descriptors a member cannot join");
    await leaveFree(member.pid, free);
    await member.tell("join");
    const line = await member.line();
    await member.lineFrom("done");
    if (line.startsWith("joined")) break;
    expect(line.startsWith("error RESOURCE"), `with ${free} free the member says: ${line}`);
    expect(descriptors(member.pid).length === before, `with ${free} free the member leaves a descriptor`);
    refusals++;
  }
  await leaveFree(member.pid, 0);
  await member.order("publish 10"); // needs no descriptor
  await member.claim("mine");
  await member.order("listen");
  await member.lineFrom("error RESOURCE"); // cannot be woken
  await member.tell("wait taken");
  await member.lineFrom("lost taken RESOURCE");
  note(`${refusals} refusals`);
  expect(refusals > 1, "the refusals did not come from missing descriptors");
  await limit(member.pid, "nofile", 1024);
  await member.order("wait taken");
  await other.release("taken");
  await member.lineFrom("won taken");
  await expectWell(other, member);
}

export const checks: Checks = {
  "a client that runs out of descriptors refuses workers with RESOURCE, serves its attached workers, sleeps, and recovers":
    clientRunsOut,
  "a client without a free descriptor serves its attached workers, and accepts others when it has descriptors again":
    exhaustedClientRecovers,
  "a worker that runs out of descriptors reports RESOURCE, and attaches when it has descriptors again": workerRunsOut,
  "a member that runs out of descriptors gets RESOURCE, still publishes and claims, and can wait when it has descriptors again":
    memberRunsOut,
};
