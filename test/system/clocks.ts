/** Clocks that differ, and processes that lose time. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { findLibrary } from "../../src/native/find.ts";
import { type Checks, expect, needRoot, needTool, note, Place, Program, program, root, run, until } from "./checks.ts";

const DAY_S = 86_400;
/** How late an answer may be on a machine that is busy with other things, in ms. */
const LATE_MS = 10_000;

/** The command with a monotonic clock that is a day ahead. */
function aDayAhead(command: string[]): string[] {
  needRoot();
  return [needTool("unshare"), "--time", "--monotonic", `${DAY_S}`, "--boottime", `${DAY_S}`, ...command];
}

function uptime(text: string): number {
  return Number(text.split(" ")[0]);
}

/** Asks, and expects an answer after at least `least` ms. */
async function ask(hub: Program, what: string, result: string, least: number): Promise<number> {
  await hub.tell(`ask ${what}`);
  const [, ms, ...rest] = (await hub.lineFrom("asked")).split(" ");
  expect(rest.join(" ").startsWith(result), `${what} ended with: ${rest.join(" ")}`);
  // A timer of Bun's may fire a millisecond early.
  expect(Number(ms) >= least - 2 && Number(ms) < least + LATE_MS, `${what} took ${ms} ms, not ${least}`);
  return Number(ms);
}

/** What waits waits as long as it should: in the queue, in a slot, in a handler. */
async function timesHold(hub: Program, worker: Program): Promise<void> {
  await hub.order("go 200");
  await ask(hub, "/slow 150 60000", "", 150);
  await ask(hub, "/slow 3000 400", "RequestTimeoutError true", 400);
  const aborted = Number((await worker.lineFrom("aborted")).split(" ")[1]);
  expect(aborted > 200 && aborted < 400 + LATE_MS, `the handler's signal aborted after ${aborted} ms, not about 400`);
  await hub.tell("ask /deadline x 5000");
  const left = Number((await hub.lineFrom("asked")).split(" ")[2]);
  expect(left > 2_000 && left < 5_100, `the handler sees a deadline in ${left} ms, not in about 5000`);
  await hub.order("go 200");
}

async function shiftedClocks(): Promise<void> {
  const shifted =
    uptime(await run(aDayAhead(["cat", "/proc/uptime"]))) - uptime(readFileSync("/proc/uptime", "latin1"));
  expect(Math.abs(shifted - DAY_S) < 60, `the time namespace is ${shifted} s ahead, not a day`);
  for (const ahead of ["worker", "hub"] as const) {
    using place = new Place();
    const command = (role: "hub" | "worker") => {
      const plain = program(role, place.directory);
      return ahead === role ? aDayAhead(plain) : plain;
    };
    await using hub = new Program(command("hub"));
    await hub.expectLine("listening");
    await using worker = new Program(command("worker"));
    await worker.expectLine("attached");
    await hub.lineFrom("joined");
    await timesHold(hub, worker);
  }
}

/** What asks for the time of day: nothing in C; in TypeScript what tells a handler its deadline. */
async function nothingAsksForTheTimeOfDay(): Promise<void> {
  const wanted =
    (await run([needTool("nm"), "-D", "--undefined-only", findLibrary()])).match(/\w*(time|clock)\w*/g) ?? [];
  const clocks = wanted.filter((symbol) => !symbol.startsWith("__"));
  expect(clocks.join() === "clock_gettime", `the library asks ${clocks}`);
  const sources = readdirSync(join(root, "csrc")).map((file) => readFileSync(join(root, "csrc", file), "utf8"));
  const used = new Set(sources.join("\n").match(/\bCLOCK_\w+/g));
  const monotonic = "CLOCK_MONOTONIC,CLOCK_UPTIME_RAW"; // the latter on macOS
  expect([...used].sort().join() === monotonic, `the sources name ${[...used]}`);
  const files = ["bus", "contract"].flatMap((folder) =>
    readdirSync(join(root, "src", folder)).map((file) => `${folder}/${file}`),
  );
  const typescript = files.filter((file) => {
    const lines = readFileSync(join(root, "src", file), "utf8").split("\n");
    return lines.some((line) => !/^\s*(\/\/|\/?\*)/.test(line) && /\bDate\b|hrtime|timeOrigin/.test(line));
  });
  expect(typescript.join() === "bus/request.ts", `the time of day is asked in ${typescript}`);
}

async function stop(process_: Program): Promise<void> {
  process_.kill("SIGSTOP");
  const state = () => /^State:\s+(\S)/m.exec(readFileSync(`/proc/${process_.pid}/status`, "latin1"))?.[1];
  await until(() => state() === "T", "it is stopped");
}

async function stoppedLongerThanItsTimeout(): Promise<void> {
  using place = new Place();
  await using hub = new Program(program("hub", place.directory));
  await hub.expectLine("listening");
  await using worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await hub.lineFrom("joined");

  await stop(worker); // a worker that has not claimed it: nobody ran it
  const late = await ask(hub, "/slow 1 400", "RequestTimeoutError false", 400);
  worker.kill("SIGCONT");
  await hub.order("go 100");

  // A hub whose worker answers in time, while the hub itself oversleeps the deadline: the answer counts.
  await hub.tell("ask /slow 200 600");
  await Bun.sleep(100); // it is on its way
  await stop(hub);
  await Bun.sleep(1_200); // longer than the timeout, and than the handler
  hub.kill("SIGCONT");
  const line = await hub.lineFrom("asked");
  expect(!line.includes("Error"), `an answer that was there in time was not delivered: ${line}`);
  expect(Number(line.split(" ")[1]) > 1_000, `the hub was not stopped: ${line}`);

  // One whose handler has not ended by then is out of time, once.
  await hub.tell("ask /slow 60000 300");
  await Bun.sleep(100);
  await stop(hub);
  await Bun.sleep(800);
  hub.kill("SIGCONT");
  const over = await hub.lineFrom("asked");
  expect(over.endsWith("RequestTimeoutError true"), `a request out of time ended with: ${over}`);
  note(`a stopped worker's request ended after ${late} ms of 400`);
  await hub.order("go 100");
}

export const checks: Checks = {
  "a worker or a hub whose clock is a day ahead: requests, timeouts and deadlines are as ever": shiftedClocks,
  "nothing in the library asks for the time of day, and only a handler's deadline in TypeScript":
    nothingAsksForTheTimeOfDay,
  "a process that was stopped for longer than a timeout judges by what is there when it goes on":
    stoppedLongerThanItsTimeout,
};
