/** System calls that slotbus does not make: on an idle and on a busy bus, in a fleet with and without sleepers. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { BusObserver } from "../../src/native/observer.ts";
import { type Checks, expect, Lacking, needTool, note, Place, Program, program, run } from "./checks.ts";
import { Member } from "./fleet.ts";
import { buildLife } from "./life.ts";

/** strace, attached to a running process. */
class Trace {
  readonly #file: string;
  readonly #child: Subprocess<"ignore", "ignore", "pipe">;

  private constructor(file: string, child: Subprocess<"ignore", "ignore", "pipe">) {
    this.#file = file;
    this.#child = child;
  }

  /** Resolves when strace watches every thread of the process. */
  static async attach(place: Place, pid: number, calls: string): Promise<Trace> {
    const file = join(place.folder, `trace-${pid}`);
    const child = Bun.spawn([needTool("strace"), "-f", "-o", file, "-e", `trace=${calls}`, "-p", String(pid)], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const threads = readdirSync(`/proc/${pid}/task`).length;
    void (async () => {
      let text = "";
      for await (const chunk of child.stderr) {
        text += new TextDecoder().decode(chunk);
        if (text.includes("attached") && (threads === 1 || text.includes("threads"))) resolve();
      } // read to the end: strace reports each new thread, and a closed pipe would kill it
      reject(new Lacking(`strace says: ${text.trim()}`));
    })();
    await promise;
    return new Trace(file, child);
  }

  /** Ends the trace. Resolves to the number of calls since it was attached, by name, without the engine's private futexes. */
  async end(): Promise<Map<string, number>> {
    return countCalls(await this.#stop());
  }

  /** Ends the trace. Resolves to the calls that the process's first thread made inside its marked work. */
  async endMarked(pid: number): Promise<Map<string, number>> {
    const [work] = markedParts((await this.#stop()).filter((line) => line.startsWith(`${pid} `)));
    expect(work !== undefined, "nothing is marked in the trace");
    return countCalls(work!);
  }

  async #stop(): Promise<string[]> {
    this.#child.kill("SIGINT");
    await this.#child.exited;
    return readFileSync(this.#file, "utf8").split("\n");
  }
}

function countCalls(lines: string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const line of lines) {
    const call = /^\d+ +(?:\d+\.\d+ )?(\w+)\(/.exec(line)?.[1];
    if (call && !line.includes("_PRIVATE")) counts.set(call, (counts.get(call) ?? 0) + 1);
  }
  return counts;
}

/** Returns the lines of a trace between each getpgid(-3) and the next getpgid(-4). */
function markedParts(lines: string[]): string[][] {
  const parts: string[][] = [];
  let part: string[] | null = null;
  for (const line of lines) {
    if (/getpgid\(-3\b/.test(line)) part = [];
    else if (/getpgid\(-4\b/.test(line) && part) [part, parts[parts.length]] = [null, part];
    else part?.push(line);
  }
  return parts;
}

function total(counts: Map<string, number>): number {
  return [...counts.values()].reduce((sum, count) => sum + count, 0);
}

function show(counts: Map<string, number>): string {
  return [...counts].map(([call, count]) => `${count} ${call}`).join(", ") || "nothing";
}

const MESSAGE_CALLS = "sendto,sendmsg,recvfrom,recvmsg,read,write,writev,futex";
/** Calls with which a thread sleeps or arms a timer. `?`: not on every machine. */
const WAIT_CALLS = "epoll_pwait2,epoll_pwait,?epoll_wait,?poll,ppoll,clock_nanosleep,timerfd_settime";

/** Resolves to the system calls that each process makes while `during` runs. */
async function callsOf(place: Place, processes: Program[], calls: string, during: () => Promise<void>) {
  const traces = await Promise.all(processes.map((process) => Trace.attach(place, process.pid, calls)));
  await during();
  return Promise.all(traces.map((trace) => trace.end()));
}

/** Number of times that each measurement is made. The median counts: the engine and the machine disturb single ones. */
const ROUNDS = 5;

async function inMostRounds(holds: () => Promise<boolean>): Promise<boolean> {
  let held = 0;
  for (let round = 0; round < ROUNDS; round++) if (await holds()) held++;
  return held > ROUNDS / 2;
}

async function idleIsSilent(): Promise<void> {
  needTool("strace");
  using place = new Place();
  const env = { BUN_GC_TIMER_DISABLE: "1" }; // Bun's garbage collector checks its heap every second; the heaps differ
  await using bare = new Program(program("bare", place.folder), env);
  await using client = new Program(program("client", place.directory), env);
  await client.expectLine("listening");
  await using worker = new Program(program("worker", place.directory), env);
  await Promise.all([worker.expectLine("attached"), client.expectLine("joined"), bare.expectLine("waiting")]);
  await Promise.all([client.order("go 1000"), bare.order("go 1000")]);
  let seen = "";
  const quiet = await inMostRounds(async () => {
    const nothing = () => Bun.sleep(2_000);
    const [ofClient, ofWorker, ofBare] = await callsOf(
      place,
      [client, worker, bare],
      `${MESSAGE_CALLS},${WAIT_CALLS}`,
      nothing,
    );
    seen += `\nclient: ${show(ofClient!)}; worker: ${show(ofWorker!)}; bare: ${show(ofBare!)}`;
    // Bun wakes up once a second, so two seconds have two or three wake-ups.
    const sleeps = (counts: Map<string, number>) => [...counts.keys()].every((call) => WAIT_CALLS.includes(call));
    return [ofClient!, ofWorker!].every((counts) => sleeps(counts) && total(counts) <= total(ofBare!) + 1);
  });
  expect(quiet, `in most of the periods of 2 s there were more calls than in a bare process:${seen}`);
  const one = await callsOf(place, [client, worker], MESSAGE_CALLS, () => client.order("go 1"));
  expect(
    one.every((counts) => total(counts) > 0),
    "strace sees nothing, so the silence proves nothing",
  );
}

/** strace sees the join, so calls that it does not see afterwards are not made. */
async function observersAreSilent(): Promise<void> {
  needTool("strace");
  using place = new Place();
  const env = { BUN_GC_TIMER_DISABLE: "1" }; // as above
  await using bare = new Program(program("bare", place.folder), env);
  await using client = new Program(program("client", place.directory), env);
  await Promise.all([client.expectLine("listening"), bare.expectLine("waiting")]);
  const open = () => BusObserver.open({ name: "system", directory: place.directory });
  const [joining] = await callsOf(place, [client], MESSAGE_CALLS, async () => (await open()).close());
  expect(total(joining!) > 0, "strace does not see an observer join, so the silence proves nothing");
  const observers = await Promise.all([open(), open(), open()]);
  let seen = "";
  const quiet = await inMostRounds(async () => {
    let reads = 0;
    const look = async (): Promise<void> => {
      for (const until = performance.now() + 2_000; performance.now() < until; await Bun.sleep(1))
        for (const observer of observers) reads += observer.read().pid === client.pid ? 1 : 0;
    };
    const [ofClient, ofBare] = await callsOf(place, [client, bare], `${MESSAGE_CALLS},${WAIT_CALLS}`, look);
    seen += `\n${reads} reads: client: ${show(ofClient!)}; bare: ${show(ofBare!)}`;
    const sleeps = [...ofClient!.keys()].every((call) => WAIT_CALLS.includes(call));
    return reads > 300 && sleeps && total(ofClient!) <= total(ofBare!) + 1;
  });
  for (const observer of observers) observer.close();
  expect(
    quiet,
    `in most of the periods of 2 s with three observers there were more calls than in a bare process:${seen}`,
  );
  note(seen.trim());
}

async function busyStaysOutOfTheKernel(order: string, count: number): Promise<void> {
  needTool("strace");
  using place = new Place();
  await using client = new Program(program("client", place.directory));
  await client.expectLine("listening");
  await using worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await client.expectLine("joined");
  await client.order(`${order} 5000`); // compiled and warm
  let seen = "";
  // While other processes use the processors, spinning finds less and the sides park.
  const rare = await inMostRounds(async () => {
    const work = () => client.order(`${order} ${count}`);
    const [ofClient, ofWorker] = await callsOf(place, [client, worker], MESSAGE_CALLS, work);
    seen += `\nclient: ${show(ofClient!)}; worker: ${show(ofWorker!)}`;
    return [ofClient!, ofWorker!].every((counts) => [...counts.values()].every((calls) => calls < count / 20));
  });
  expect(rare, `most runs of ${count} made many calls:${seen}`);
  note(seen.trim());
}

// ---- fleets ----------------------------------------------------------------------------------------------------

const COUNT = 10_000;

/** The library alone makes no call at all. */
async function quietFleetMakesNoCall(): Promise<void> {
  using place = new Place();
  const trace = join(place.folder, "trace");
  const life = await buildLife(place.folder);
  await run([needTool("strace"), "-f", "-qq", "-o", trace, life, "quiet", place.directory]);
  const parts = markedParts(readFileSync(trace, "utf8").split("\n"));
  const seen = parts.map((part) => show(countCalls(part)));
  expect(seen.join() === "nothing,nothing,nothing,nothing", `the library makes: ${seen.join("; ")}`);
}

/** Resolves to the system calls of a member's main thread in marked work: the median of the runs, as the engine may collect or compile. */
async function markedCalls(place: Place, member: Member, command: string): Promise<Map<string, number>> {
  const runs: Map<string, number>[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const trace = await Trace.attach(place, member.pid, "all");
    await member.order(command);
    runs.push(await trace.endMarked(member.pid));
  }
  return runs.toSorted((a, b) => total(a) - total(b))[ROUNDS >> 1]!;
}

async function publishingMakesNoCall(): Promise<void> {
  needTool("strace");
  using place = new Place();
  await using publisher = await Member.join(place);
  await publisher.order(`quiet ${COUNT}`); // compiled and warm
  await using readers = await Member.start(program("member", place.directory));
  for (const audience of [0, 1, 8]) {
    await readers.order(`audience ${audience}`);
    const living = await publisher.members();
    expect(living.length === 1 + audience, `there are ${living.length - 1} readers, not ${audience}`);
    const calls = await markedCalls(place, publisher, `quiet ${COUNT}`);
    expect(total(calls) === 0, `${COUNT} publications with ${audience} readers that do not sleep made: ${show(calls)}`);
  }
  await readers.join();
  await readers.order("listen");
  const woken = await markedCalls(place, publisher, "quiet 1"); // one is published before the marks
  const slept = await callsOf(place, [publisher], "futex", async () => {
    await Bun.sleep(200); // the reader sleeps by now
    await publisher.order("publish 1");
  });
  note(`a publication to a reader that sleeps: ${show(slept[0]!)}; the next one: ${show(woken)}`);
  expect(total(slept[0]!) === 1, "strace sees no wake-up, so the silence proves nothing");
}

async function claimingMakesNoCall(): Promise<void> {
  needTool("strace");
  using place = new Place();
  await using one = await Member.join(place);
  await using other = await Member.join(place);
  await one.order(`pairs ${COUNT}`);
  const pairs = await markedCalls(place, one, `pairs ${COUNT}`);
  note(`${COUNT} claims and releases: ${show(pairs)}`); // the garbage collector asks how much memory is in use
  const ours = ["fcntl", "futex", "sendto", "pidfd_open"].filter((call) => pairs.has(call));
  expect(ours.length === 0 && total(pairs) < COUNT / 100, `claims that nobody contests made: ${show(pairs)}`);
  await other.claim("taken");
  const yields = await markedCalls(place, one, "yields taken 1000");
  note(`1000 claims of what another holds: ${show(yields)}`);
  expect(
    yields.get("fcntl") === 1000 && total(yields) < 1010,
    "a failed claim costs more than one check of the holder's lock",
  );
}

async function sleepersMakeNoCall(): Promise<void> {
  needTool("strace");
  using place = new Place();
  const env = { BUN_GC_TIMER_DISABLE: "1" }; // as above
  await using bare = new Program(program("bare", place.folder), env);
  await bare.expectLine("waiting");
  await using active = await Member.join(place, "{}", env);
  await active.claim("taken");
  await using cursor = await Member.join(place, "{}", env);
  await using subscription = await Member.join(place, "{}", env);
  await using waiter = await Member.join(place, "{}", env);
  await cursor.order("listen");
  await subscription.order("subscribe");
  await waiter.order("wait taken");
  const sleepers = { cursor, subscription, waiter };
  let seen = "";
  const quiet = await inMostRounds(async () => {
    const second = () => Bun.sleep(1_000);
    const traced = `${MESSAGE_CALLS},${WAIT_CALLS},fcntl,pidfd_open`; // not those with which the engine manages memory and threads
    const [ofBare, ...counts] = await callsOf(place, [bare, ...Object.values(sleepers)], traced, second);
    ofBare!.delete("restart_syscall");
    seen += `\nbare: ${show(ofBare!)}; ${Object.keys(sleepers)
      .map((name, i) => `${name}: ${show(counts[i]!)}`)
      .join("; ")}`;
    return counts.every((calls) => sleepsOnly(calls, total(ofBare!)));
  });
  expect(quiet, `in most of the seconds there were more calls than in a bare process:${seen}`);
  note(seen.trim());
  await active.order("publish 1");
  await cursor.lineFrom("event");
  await active.release("taken");
  await waiter.lineFrom("won taken");
}

/**
 * Whether a process made no more waits than a bare process, plus one by the thread that sleeps for the fleet. `restart_syscall`
 * continues a call that strace interrupted.
 */
function sleepsOnly(calls: Map<string, number>, bare: number): boolean {
  const own = [...calls].filter(([call]) => call !== "restart_syscall" && call !== "futex");
  const count = own.reduce((sum, [, n]) => sum + n, 0);
  return (calls.get("futex") ?? 0) <= 1 && own.every(([call]) => WAIT_CALLS.includes(call)) && count <= bare + 1;
}

export const checks: Checks = {
  "an idle client and an idle worker make no system call that a Bun process with a socket does not make": idleIsSilent,
  "three observers that read a client's statistics all the time cause no system call in it after they have joined":
    observersAreSilent,
  "a busy client and a busy worker make less than one system call per 20 requests": () =>
    busyStaysOutOfTheKernel("go", 20_000),
  "a stream of 20 000 chunks in both directions makes less than one system call per 20 chunks": () =>
    busyStaysOutOfTheKernel("stream", 20_000),
  "the library publishes and claims without a system call when no member sleeps and no lease is contested":
    quietFleetMakesNoCall,
  "10 000 publications under Bun to zero, one and eight readers that do not sleep make no system call":
    publishingMakesNoCall,
  "10 000 claims and releases under Bun make no system call of the library, and a failed claim makes one":
    claimingMakesNoCall,
  "a member that waits for events or for a lease makes no system call in a second of silence": sleepersMakeNoCall,
};
