/** Bodies of 100 MB and of 1 GiB: every byte arrives, and no process holds the whole body unless it asked for it. */

import { readFileSync, writeFileSync } from "node:fs";
import { Bus, service } from "./bus.ts";
import { chunksOf, hasher, hashOf } from "./bytes.ts";
import { type Checks, expect, note, Place, Program, until } from "./checks.ts";

const MEBIBYTE = 2 ** 20;
const SIZES = { "100 MB": 100_000_000, "1 GiB": 1024 * MEBIBYTE };
/**
 * Memory that a process may take while a body streams through it, in MiB: half of the largest body. It is garbage: how much there
 * is depends on when it is collected; 20 downloads took 0 to 396.
 */
const STREAM_MIB = 512;
/** Memory that a worker of an idle bus keeps, in MiB, as operations.md says. */
const IDLE_MIB = 64;

/** Memory of a process in MiB: its peak, what it has now, the shared part of that. */
function memory(pid: number, what: "VmHWM" | "VmRSS" | "RssShmem"): number {
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  return Number(new RegExp(`^${what}:\\s+(\\d+) kB$`, "m").exec(status)?.[1]) / 1024;
}

/** Notes what each process took while `use` ran; expects at most `limit` MiB. */
async function watch(
  what: string,
  pids: Record<string, number>,
  limit: number,
  use: () => Promise<void>,
): Promise<void> {
  const before = Object.values(pids).map((pid) => {
    writeFileSync(`/proc/${pid}/clear_refs`, "5"); // the peak starts again
    return memory(pid, "VmRSS");
  });
  const started = performance.now();
  await use();
  const seconds = (performance.now() - started) / 1000;
  const grown = Object.values(pids).map((pid, at) => Math.round(memory(pid, "VmHWM") - before[at]!));
  const text = Object.keys(pids).map((name, at) => `${name} +${grown[at]} MiB`);
  note(`${what}: ${text.join(", ")}, ${seconds.toFixed(1)} s`);
  expect(Math.max(...grown) <= limit, `${what}: a process took more than ${limit} MiB`);
}

/** Runs a command that prints hash and length of a body at both of its ends. */
async function sameAtBothEnds(bus: Bus, command: string, bytes: number): Promise<void> {
  const [sent, length, got, arrived] = (await bus.answer(`${command} ${bytes}`, "hashes")).split(" ");
  expect(sent === got && length === arrived, `${command}: sent ${length} bytes, ${arrived} arrived, or they differ`);
}

async function throughTheBus(): Promise<void> {
  using place = new Place();
  await using bus = await Bus.start(place, { timeout: 300_000, workers: { min: 1, max: 1 } });
  const worker = Number(await bus.answer("workers", "workers"));
  for (const [size, bytes] of Object.entries(SIZES))
    await watch(`echo of ${size}`, { client: bus.pid, worker }, STREAM_MIB, () => sameAtBothEnds(bus, "echo", bytes));
  await bus.quit();
}

async function wholeBodies(): Promise<void> {
  using place = new Place();
  const options = { slots: 1, payloadBytes: SIZES["1 GiB"], timeout: 300_000, workers: { min: 1, max: 1 } };
  await using bus = await Bus.start(place, options);
  const worker = Number(await bus.answer("workers", "workers"));
  const pids = { client: bus.pid, worker };
  for (const [size, bytes] of Object.entries(SIZES)) {
    // Each side has the slot's two bodies and its own two; a part may be taken twice until the next garbage collection.
    const limit = (5 * bytes) / MEBIBYTE + STREAM_MIB;
    await watch(`whole body of ${size}`, pids, limit, () => sameAtBothEnds(bus, "whole", bytes));
  }
  const shared = () => Math.max(...Object.values(pids).map((pid) => memory(pid, "RssShmem")));
  await until(() => shared() <= IDLE_MIB, "the idle bus has released the memory of its slot");
  await bus.tell(`whole ${SIZES["1 GiB"] + 1}`);
  await bus.lineFrom("error PAYLOAD_TOO_LARGE");
  await bus.allAnswered(100, 1);
  await bus.quit();
}

async function throughTheHub(): Promise<void> {
  using place = new Place();
  const options = JSON.stringify({ payloadBytes: SIZES["1 GiB"] });
  await using hub = new Program(service("hub", place.directory, options));
  const [, port] = (await hub.expectLine("ready")).split(" ");
  await using worker = new Program(service("hub-worker", place.directory));
  await worker.expectLine("ready");
  const pids = { hub: hub.pid, worker: worker.pid };
  const origin = `http://127.0.0.1:${port}`;
  for (const [size, bytes] of Object.entries(SIZES)) {
    await watch(`upload of ${size}`, pids, STREAM_MIB, async () => {
      const sent = hasher();
      const body = async function* () {
        yield* chunksOf(bytes, sent);
      };
      const answer = await (await fetch(`${origin}/hash`, { method: "POST", body: body() })).text();
      expect(answer === `${sent.digest("hex")} ${bytes}`, `an upload of ${size}: ${answer}`);
    });
    await watch(`download of ${size}`, pids, STREAM_MIB, async () => {
      const expected = hasher();
      for (const _ of chunksOf(bytes, expected));
      const response = await fetch(`${origin}/bytes/${bytes}`);
      const got = await hashOf(response.body!);
      expect(got === `${expected.digest("hex")} ${bytes}`, `a download of ${size}: ${got}`);
    });
  }
  const tooLong = async function* () {
    yield* chunksOf(SIZES["1 GiB"] + 1, hasher());
  };
  const refused = await fetch(`${origin}/hash`, { method: "POST", body: tooLong() });
  expect(refused.status === 413, `a body above payloadBytes gets ${refused.status}`);
}

export const checks: Checks = {
  "streams of 100 MB and 1 GiB cross a bus unchanged, and neither side holds them": throughTheBus,
  "whole bodies of 100 MB and 1 GiB cross a bus unchanged; one byte more is refused": wholeBodies,
  "bodies of 100 MB and 1 GiB cross a hub unchanged in both directions, and neither hub nor worker holds them":
    throughTheHub,
};
