/**
 * Real processes whose clocks differ, whose wall clock jumps, or which lose time. The jumps of the monotonic clock, which no
 * machine makes, are in test/prove/endure/clock.c.
 */

import { closeSync, constants, openSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { findLibrary } from "../../src/native/find.ts";
import { type Checks, expect, needRoot, needTool, note, Place, Program, program, root, run, until } from "./checks.ts";
import { filesOf } from "../prove/proved.ts";
import { Member } from "./fleet.ts";

const DAY_S = 86_400;
/** How late a response may be on a busy machine, in ms. */
const LATE_MS = 10_000;

/** Returns the command with a monotonic clock that is a day ahead. */
function aDayAhead(command: string[]): string[] {
  needRoot();
  return [needTool("unshare"), "--time", "--monotonic", `${DAY_S}`, "--boottime", `${DAY_S}`, ...command];
}

function uptime(text: string): number {
  return Number(text.split(" ")[0]);
}

/** Sends a request and expects its result after at least `least` ms. */
async function ask(client: Program, what: string, result: string, least: number): Promise<number> {
  await client.tell(`ask ${what}`);
  const [, ms, ...rest] = (await client.lineFrom("asked")).split(" ");
  expect(rest.join(" ").startsWith(result), `${what} ended with: ${rest.join(" ")}`);
  // A timer of Bun's may fire a millisecond early.
  expect(Number(ms) >= least - 2 && Number(ms) < least + LATE_MS, `${what} took ${ms} ms, not ${least}`);
  return Number(ms);
}

/** Waits and timeouts last as long as they should: in the queue, in a slot, in a handler. */
async function timesHold(client: Program, worker: Program): Promise<void> {
  await client.order("go 200");
  await ask(client, "/slow 150 60000", "", 150);
  await ask(client, "/slow 3000 400", "TIMEOUT true", 400);
  const aborted = Number((await worker.lineFrom("aborted")).split(" ")[1]);
  expect(aborted > 200 && aborted < 400 + LATE_MS, `the handler's signal aborted after ${aborted} ms, not about 400`);
  await client.tell("ask /deadline x 5000");
  const left = Number((await client.lineFrom("asked")).split(" ")[2]);
  expect(left > 2_000 && left < 5_100, `the handler sees a deadline in ${left} ms, not in about 5000`);
  await client.order("go 200");
}

async function shiftedClocks(): Promise<void> {
  const shifted =
    uptime(await run(aDayAhead(["cat", "/proc/uptime"]))) - uptime(readFileSync("/proc/uptime", "latin1"));
  expect(Math.abs(shifted - DAY_S) < 60, `the time namespace is ${shifted} s ahead, not a day`);
  for (const ahead of ["worker", "client"] as const) {
    using place = new Place();
    const command = (role: "client" | "worker") => {
      const plain = program(role, place.directory);
      return ahead === role ? aDayAhead(plain) : plain;
    };
    await using client = new Program(command("client"));
    await client.expectLine("listening");
    await using worker = new Program(command("worker"));
    await worker.expectLine("attached");
    await client.lineFrom("joined");
    await timesHold(client, worker);
  }
}

/** Returns the lines of C that call the function, each with its file. */
function callsIn(sources: Map<string, string>, name: string): string[] {
  return [...sources].flatMap(([file, text]) =>
    [...text.matchAll(new RegExp(`^.*\\b${name}\\(.*$`, "gm"))].map(([line]) => `${file}: ${line.trim()}`),
  );
}

/**
 * The only uses of the time of day in C: the times of an event and of a member, which are for people, and the first epoch and
 * token, which exceed all earlier epochs and tokens in any case.
 */
const WALL_CLOCK = [
  "fleet_private.h: static inline uint64_t wall_clock_us(void)",
  "fleet_file.c: uint64_t now = wall_clock_us();", // begin_epoch
  "fleet.c: store_relaxed(&entry->joined_ms, wall_clock_us() / 1000);",
  "fleet_file.c: uint64_t *next = &fleet_leases(fleet)->next_token, token = token_at(wall_clock_us());",
  "ring.c: double now = (double)wall_clock_us() / 1e3;",
];

/** A handler's deadline; the times of events; over NATS also the first token, and the age of a lease as people see it. */
const IN_TYPESCRIPT = [
  "bus/request.ts",
  "contest/nats/bucket.ts",
  "contest/nats/contest.ts",
  "events/local-ring.ts",
  "events/nats/ring.ts",
];

async function timeOfDayIsReadForFewPurposes(): Promise<void> {
  const wanted =
    (await run([needTool("nm"), "-D", "--undefined-only", findLibrary()])).match(/\w*(time|clock)\w*/g) ?? [];
  const clocks = wanted.filter((symbol) => !symbol.startsWith("__"));
  expect(clocks.join() === "clock_gettime", `the library imports ${clocks}`);
  const sources = new Map(
    readdirSync(join(root, "csrc"))
      .filter((file) => /\.[ch]$/.test(file))
      .map((file) => [file, readFileSync(join(root, "csrc", file), "utf8")]),
  );
  const used = [...sources].flatMap(([file, text]) => {
    return (text.match(/\bclock_gettime\w*\(CLOCK_\w+/g) ?? []).map((call) => `${file}: ${call.split("(")[1]}`);
  });
  const allowed = "fleet_private.h: CLOCK_REALTIME,os_linux.c: CLOCK_MONOTONIC,os_macos.c: CLOCK_UPTIME_RAW";
  expect(used.sort().join() === allowed, `the sources read ${used}`);
  const asked = callsIn(sources, "wall_clock_us").concat(callsIn(sources, "(gettimeofday|time|ftime|timespec_get)"));
  const unknown = asked.filter((line) => !WALL_CLOCK.includes(line));
  expect(unknown.length === 0 && asked.length === WALL_CLOCK.length, `C reads the time of day in ${asked.join("; ")}`);
  const files = ["bus", "contract", "fleet", "events", "contest"].flatMap((folder) =>
    filesOf([`src/${folder}`]).map((file) => file.slice("src/".length)),
  );
  const typescript = files.sort().filter((file) => {
    const lines = readFileSync(join(root, "src", file), "utf8").split("\n");
    return lines.some((line) => !/^\s*(\/\/|\/?\*)/.test(line) && /\bDate\b|hrtime|timeOrigin/.test(line));
  });
  expect(typescript.join() === IN_TYPESCRIPT.join(), `TypeScript reads the time of day in ${typescript}`);
}

// ---- a wall clock that jumps -----------------------------------------------------------------------------------

const YEAR_S = 365 * DAY_S;

/** Sets the wall clock of processes that run with `env`. All their other clocks are the system's. */
class WallClock {
  readonly env: Record<string, string>;
  readonly #file: string;

  private constructor(place: Place, library: string) {
    this.#file = join(place.folder, "ahead");
    this.env = { LD_PRELOAD: library, SLOTBUS_AHEAD: this.#file };
    this.jump(0);
  }

  static async build(place: Place): Promise<WallClock> {
    const library = join(place.folder, "clock.so");
    const flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC"];
    await run([needTool("gcc"), ...flags, "-o", library, join(import.meta.dir, "clock.c")]);
    return new WallClock(place, library);
  }

  /** Sets the wall clock ahead by `seconds`, or back if negative. */
  jump(seconds: number): void {
    const fd = openSync(this.#file, constants.O_CREAT | constants.O_RDWR); // not truncated: it may be mapped
    writeSync(fd, new BigInt64Array([BigInt(seconds)]), 0, 8, 0);
    closeSync(fd);
  }
}

/** Expects that the member's wall clock is off by `seconds`. */
async function sees(member: Member, seconds: number): Promise<void> {
  const off = Number((await member.answer("clock", "clock")).split(" ")[1]) - Date.now();
  expect(Math.abs(off / 1000 - seconds) < 60, `its wall clock is off by ${off} ms, not by ${seconds} s`);
}

/** Expects that leases, waits and events do not change when the wall clock jumps from `before` to `after`, in seconds off. */
async function jumpDisturbsNothing(one: Member, other: Member, clock: WallClock, before: number, after: number) {
  const what = `from ${before / YEAR_S} to ${after / YEAR_S} years off`;
  clock.jump(before);
  await sees(other, before);
  const token = await one.claim("long");
  const short = await one.claim("short", 600);
  await other.order("wait short");
  await other.order("wait long 1000 900");
  await one.order("publish 2");
  const first = Number((await other.lineFrom("event")).split(" ")[1]);
  clock.jump(after);
  await sees(one, after);
  await one.order("publish 2");
  for (let next = first + 1; next < first + 4; next++) {
    const [, event, time] = (await other.lineFrom("event")).split(" ").map(Number);
    expect(event === next, `${what}: got event ${event}, not ${next}`);
    const off = (time! - Date.now()) / 1000 - (next < first + 2 ? before : after);
    expect(Math.abs(off) < 60, `${what}: an event's time is ${off} s off what its publisher's clock said`);
  }
  const [, , higher, waited] = (await other.lineFrom("won short")).split(" ").map(Number);
  expect(higher! > short && short > token, `${what}: tokens do not grow: ${token}, ${short}, ${higher}`);
  expect(waited! > 300 && waited! < LATE_MS, `${what}: a lease of 600 ms was free after ${waited} ms`);
  const [, , error, ms] = (await other.lineFrom("lost long")).split(" ");
  const inTime = error === "CLAIM_TIMEOUT" && Number(ms) >= 898 && Number(ms) < LATE_MS;
  expect(inTime, `${what}: a claim with a timeout of 900 ms ended after ${ms} ms with ${error}`);
  expect((await other.yields("long")) === token, `${what}: a lease of an hour has expired`);
  await one.release("long");
  await other.release("short");
  expect((await one.members()).length === 2, `${what}: a member is missing`);
}

async function wallClockJumps(): Promise<void> {
  using place = new Place();
  const clock = await WallClock.build(place);
  const member = async () => Member.start(program("member", place.directory), clock.env);
  await using one = await member();
  const { epoch } = await one.join();
  await using other = await member();
  await other.join();
  await other.order("listen");
  await jumpDisturbsNothing(one, other, clock, 0, YEAR_S);
  await jumpDisturbsNothing(one, other, clock, YEAR_S, -YEAR_S);
  await jumpDisturbsNothing(one, other, clock, -YEAR_S, 0);

  // All members are killed. The next epoch is later although the clock went back by a year.
  const token = await one.claim("last");
  one.kill("SIGKILL");
  other.kill("SIGKILL");
  await Promise.all([one.ended(), other.ended()]);
  clock.jump(-YEAR_S);
  await using heir = await member();
  const next = await heir.join();
  await sees(heir, -YEAR_S);
  expect(next.epoch > epoch, `epoch ${next.epoch} follows ${epoch}`);
  const higher = await heir.claim("last");
  expect(higher > token, `token ${higher} follows ${token}`);

  // The last member leaves and its file is removed. The next fleet starts a year later.
  await heir.order("leave");
  clock.jump(YEAR_S);
  const last = await heir.join();
  expect(last.epoch > next.epoch, `epoch ${last.epoch} follows ${next.epoch}`);
  expect((await heir.claim("last")) > higher, "the tokens of a fleet that was created again do not grow");
}

async function stop(process_: Program): Promise<void> {
  process_.kill("SIGSTOP");
  const state = () => /^State:\s+(\S)/m.exec(readFileSync(`/proc/${process_.pid}/status`, "latin1"))?.[1];
  await until(() => state() === "T", "the process is stopped");
}

async function stoppedLongerThanItsTimeout(): Promise<void> {
  using place = new Place();
  await using client = new Program(program("client", place.directory));
  await client.expectLine("listening");
  await using worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await client.lineFrom("joined");

  await stop(worker); // it never claims the request
  const late = await ask(client, "/slow 1 400", "TIMEOUT false", 400);
  worker.kill("SIGCONT");
  await client.order("go 100");

  // The worker responds in time while the client is stopped beyond the deadline: the response is delivered.
  await client.tell("ask /slow 200 600");
  await Bun.sleep(100); // the request is on its way
  await stop(client);
  await Bun.sleep(1_200); // longer than the timeout, and than the handler
  client.kill("SIGCONT");
  const line = await client.lineFrom("asked");
  expect(!line.includes("Error"), `a response that came in time was not delivered: ${line}`);
  expect(Number(line.split(" ")[1]) > 1_000, `the client was not stopped: ${line}`);

  // The handler has not ended when the client continues: the request times out once.
  await client.tell("ask /slow 60000 300");
  await Bun.sleep(100);
  await stop(client);
  await Bun.sleep(800);
  client.kill("SIGCONT");
  const over = await client.lineFrom("asked");
  expect(over.endsWith("TIMEOUT true"), `a request after its deadline ended with: ${over}`);
  note(`a stopped worker's request ended after ${late} ms of 400`);
  await client.order("go 100");
}

export const checks: Checks = {
  "requests, timeouts and deadlines work when the monotonic clock of the worker or the client is a day ahead":
    shiftedClocks,
  "the time of day is read only for people, for the first epoch and token, for a handler's deadline and for events":
    timeOfDayIsReadForFewPurposes,
  "a wall clock that jumps by years, both ways, changes no lease, wait, order, token or epoch of a fleet":
    wallClockJumps,
  "a request gets the right outcome when its client or worker is stopped for longer than the timeout":
    stoppedLongerThanItsTimeout,
};
