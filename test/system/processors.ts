/** Many workers, one processor, a quota of processor time. */

import { readdirSync, readFileSync } from "node:fs";
import { Bus, service } from "./bus.ts";
import { Group } from "./cgroup.ts";
import { type Checks, expect, needTool, note, Place, Program, program } from "./checks.ts";
import { expectWell, Member } from "./fleet.ts";

/** The most workers that a bus can have, and the limit of descriptors that operations.md calls enough for them. */
const CROWD = 64;
const DESCRIPTORS = 512;

/** Options of workers that start on a busy machine. */
const PATIENT = { startupTimeout: 120_000, restart: { backoff: { initial: 20 } } };

async function crowd(): Promise<void> {
  using place = new Place();
  const limited = ["sh", "-c", `ulimit -n ${DESCRIPTORS} && exec "$@"`, "sh"];
  const workers = { min: CROWD, max: CROWD, ...PATIENT };
  const started = performance.now();
  await using bus = await Bus.start(place, { slots: 4, timeout: 120_000, workers }, limited);
  const attached = performance.now() - started;
  const open = readdirSync(`/proc/${bus.pid}/fd`).length;
  expect((await bus.answer("each", "each")) === String(CROWD), "not every worker answers");
  const { pids } = await bus.allAnswered(5_000, CROWD * 4, "/wait?1");
  expect(pids.length === CROWD, `only ${pids.length} workers were used`);

  // One more cannot attach, and disturbs nobody.
  await using other = new Program(program("worker", place.directory));
  const refused = await other.line();
  expect(refused.startsWith("error "), `worker ${CROWD + 1} says: ${refused}`);

  const crashed = await bus.books("crash 16");
  const failed = Object.values(crashed.errors).reduce((sum, count) => sum + count, 0);
  expect(crashed.ok + failed === 500, `of 500 requests ${crashed.ok} succeeded and ${failed} failed`);
  expect(failed > 0, "no request ran on the workers that were killed");
  for (const text of Object.keys(crashed.errors))
    expect(text.startsWith("WORKER_DIED SIGKILL "), `beside killed workers a request failed with: ${text}`);
  await bus.order(`ready ${CROWD}`);
  const again = await bus.allAnswered(2_000, CROWD * 4, "/wait?1");
  expect(again.pids.length === CROWD, `after the kills only ${again.pids.length} workers are used`);
  const closing = performance.now();
  await bus.quit();
  note(
    `${CROWD} workers attached after ${(attached / 1000).toFixed(1)} s, with ${open} descriptors of the client; ` +
      `${failed} of 500 requests failed with 16 killed workers; closed in ${Math.round(performance.now() - closing)} ms; ` +
      `worker ${CROWD + 1}: ${refused}`,
  );
}

/** Returns the number of times that a process, all its threads included, gave its processor away because it had to wait. */
function waits(pid: number): number {
  let sum = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, "latin1");
    sum += Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(status)?.[1]);
  }
  return sum;
}

async function oneProcessor(): Promise<void> {
  const [first] = /^Cpus_allowed_list:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "latin1"))!.slice(1);
  const pinned = [needTool("taskset"), "--cpu-list", first!];
  using place = new Place();

  await using bus = await Bus.start(place, { workers: { min: 2, max: 2, ...PATIENT } }, pinned);
  expect(bus.spin === 0, `a bus on one processor spins for ${bus.spin} µs`);
  const before = waits(bus.pid);
  await bus.allAnswered(2_000, 1);
  const each = (waits(bus.pid) - before) / 2_000;
  await bus.allAnswered(2_000, 32);
  await bus.order("blocking 500");
  await bus.order("echo 20000000");
  await bus.quit();

  await using hub = new Program([...pinned, ...service("hub", place.directory)]);
  const [, port] = (await hub.expectLine("ready")).split(" ");
  await using worker = new Program([...pinned, ...service("hub-worker", place.directory)]);
  await worker.expectLine("ready");
  const status = async () => (await fetch(`http://127.0.0.1:${port}/origin`)).status;
  const statuses = await Promise.all(Array.from({ length: 300 }, status));
  expect(
    statuses.every((one) => one === 200),
    `the hub answers ${[...new Set(statuses)]}`,
  );

  await using one = await Member.start([...pinned, ...program("member", place.directory)]);
  await one.join();
  await using other = await Member.start([...pinned, ...program("member", place.directory)]);
  await other.join();
  await expectWell(one, other);
  await one.order("publish 1000");
  note(`the client waited ${each.toFixed(2)} times per round trip`);
}

/** Share of one processor: each process of the group stands still for most of each tenth of a second. */
const QUOTA = 0.2;

async function quota(): Promise<void> {
  using place = new Place();
  await using group = new Group("cpu", QUOTA);
  await using bus = await Bus.start(
    place,
    { timeout: 120_000, workers: { min: 2, max: 2, ...PATIENT } },
    group.inside([]),
  );
  expect(bus.spin === 0, `a bus with ${QUOTA} of a processor spins for ${bus.spin} µs`);
  await bus.allAnswered(500, 1);
  await bus.allAnswered(2_000, 64);
  await bus.order("echo 20000000");

  // Nothing is left for the others while this runs: what must be noticed is noticed late.
  await using burner = new Program(group.inside(["sh", "-c", "while :; do :; done"]));
  await bus.allAnswered(50, 4);
  const crashed = await bus.books("crash 1");
  burner.kill("SIGKILL");
  const errors = Object.keys(crashed.errors);
  expect(errors.length > 0, "no request ran on the worker that was killed");
  for (const text of errors)
    expect(text.startsWith("WORKER_DIED SIGKILL "), `beside a killed worker a request failed with: ${text}`);
  await bus.order("ready 2");
  await bus.allAnswered(500, 16);
  await bus.quit();
  const [periods, throttled] = ["nr_periods", "nr_throttled"].map((key) => group.figure("cpu.stat", key));
  note(`${JSON.stringify(crashed.errors)}; throttled in ${throttled} of ${periods} periods`);
  expect(throttled! > 10, `the quota took effect in ${throttled} periods only`);
}

export const checks: Checks = {
  "64 workers as processes serve one bus within 512 descriptors; one more is refused, 16 that are killed come back":
    crowd,
  "on one processor bus, hub and fleet work and do not spin": oneProcessor,
  "with a fifth of a processor every request succeeds, and a killed worker is reported with its signal": quota,
};
