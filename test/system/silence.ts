/** System calls that are not made: by an idle bus, and by a busy one. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { type Checks, expect, Lacking, needTool, note, Place, Program, program } from "./checks.ts";

/** strace on processes that run already. */
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
      } // to the end: strace tells of each new thread, and would die of a closed pipe
      reject(new Lacking(`strace says: ${text.trim()}`));
    })();
    await promise;
    return new Trace(file, child);
  }

  /** Ends it; the calls that began since it was attached, by name. A private futex is the engine's own. */
  async end(): Promise<Map<string, number>> {
    this.#child.kill("SIGINT");
    await this.#child.exited;
    const counts = new Map<string, number>();
    for (const line of readFileSync(this.#file, "utf8").split("\n")) {
      const call = /^\d+ +(?:\d+\.\d+ )?(\w+)\(/.exec(line)?.[1];
      if (call && !line.includes("_PRIVATE")) counts.set(call, (counts.get(call) ?? 0) + 1);
    }
    return counts;
  }
}

function total(counts: Map<string, number>): number {
  return [...counts.values()].reduce((sum, count) => sum + count, 0);
}

function show(counts: Map<string, number>): string {
  return [...counts].map(([call, count]) => `${count} ${call}`).join(", ") || "nothing";
}

const MESSAGE_CALLS = "sendto,sendmsg,recvfrom,recvmsg,read,write,writev,futex";
/** By these a thread sleeps or arms a timer. `?`: not on every machine. */
const WAIT_CALLS = "epoll_pwait2,epoll_pwait,?epoll_wait,?poll,ppoll,clock_nanosleep,timerfd_settime";

/** The system calls each process makes while `during` runs. */
async function callsOf(place: Place, processes: Program[], calls: string, during: () => Promise<void>) {
  const traces = await Promise.all(processes.map((process) => Trace.attach(place, process.pid, calls)));
  await during();
  return Promise.all(traces.map((trace) => trace.end()));
}

async function idleIsSilent(): Promise<void> {
  needTool("strace");
  using place = new Place();
  const env = { BUN_GC_TIMER_DISABLE: "1" }; // Bun's collector looks at its heap every second, and they differ
  await using bare = new Program(program("bare", place.folder), env);
  await using hub = new Program(program("hub", place.directory), env);
  await hub.expectLine("listening");
  await using worker = new Program(program("worker", place.directory), env);
  await Promise.all([worker.expectLine("attached"), hub.expectLine("joined"), bare.expectLine("waiting")]);
  await Promise.all([hub.order("go 1000"), bare.order("go 1000")]);
  let seen = "";
  let quiet = false;
  for (let round = 0; round < 5 && !quiet; round++) {
    const nothing = () => Bun.sleep(2_000); // the time in which nothing is to happen
    const [ofHub, ofWorker, ofBare] = await callsOf(
      place,
      [hub, worker, bare],
      `${MESSAGE_CALLS},${WAIT_CALLS}`,
      nothing,
    );
    seen += `\nhub: ${show(ofHub!)}; worker: ${show(ofWorker!)}; bare: ${show(ofBare!)}`;
    // Two seconds hold two or three of the wake-ups that Bun makes each second.
    const sleeps = (counts: Map<string, number>) => [...counts.keys()].every((call) => WAIT_CALLS.includes(call));
    quiet = [ofHub!, ofWorker!].every((counts) => sleeps(counts) && total(counts) <= total(ofBare!) + 1);
  }
  expect(quiet, `no 2 s of five were as quiet as a bare process:${seen}`);
  const one = await callsOf(place, [hub, worker], MESSAGE_CALLS, () => hub.order("go 1"));
  expect(
    one.every((counts) => total(counts) > 0),
    "strace sees nothing, so the silence proves nothing",
  );
}

async function busyStaysOutOfTheKernel(order: string, count: number): Promise<void> {
  needTool("strace");
  using place = new Place();
  await using hub = new Program(program("hub", place.directory));
  await hub.expectLine("listening");
  await using worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await hub.expectLine("joined");
  await hub.order(`${order} 5000`); // compiled and warm
  let seen = "";
  let rare = false;
  // Several runs: while others use the processors, spinning pays less and the sides do park.
  for (let round = 0; round < 5 && !rare; round++) {
    const work = () => hub.order(`${order} ${count}`);
    const [ofHub, ofWorker] = await callsOf(place, [hub, worker], MESSAGE_CALLS, work);
    seen += `\nhub: ${show(ofHub!)}; worker: ${show(ofWorker!)}`;
    rare = [ofHub!, ofWorker!].every((counts) => [...counts.values()].every((calls) => calls < count / 20));
  }
  expect(rare, `none of five runs of ${count} made few calls:${seen}`);
  note(seen.trim());
}

export const checks: Checks = {
  "an idle hub and an idle worker make no system call that a Bun process with a socket does not make": idleIsSilent,
  "a busy hub and a busy worker make less than one system call per 20 requests": () =>
    busyStaysOutOfTheKernel("go", 20_000),
  "a stream of 20 000 chunks in both directions makes less than one system call per 20 chunks": () =>
    busyStaysOutOfTheKernel("stream", 20_000),
};
