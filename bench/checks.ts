/** Measures slotbus alone: the cost of headers, slots and idling, and the distance to the physical limit. */

import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Handler, HeadersLike } from "../src/index.ts";
import { CommandError } from "../src/cli/usage.ts";
import { compile } from "./suite.ts";
import { alternate, closedLoop, makeBodies, median, perSecond, round } from "./measure.ts";
import { type Peer, type SlotbusContestant, startSlotbus, type Workspace } from "./systems.ts";

/** Medians of alternating rounds of one run. */
export interface Checks {
  /** Round trip of two processes that spin on two cache lines; `null` without a C compiler or a second processor. */
  spin_limit_us: number | null;
  /** p50 of a 64 B round trip of slotbus, divided by `spin_limit_us`. */
  rtt_over_spin_limit: number | null;
  /** p50 with ten request headers and ten response headers, all iterated, divided by p50 without headers. */
  headers_ratio: number;
  /** The same ratio when one of the ten headers has a new value in each message. */
  headers_one_varies_ratio: number;
  /** Requests per second with 256 slots, divided by those with 32 slots; 32 in flight. */
  slots_256_over_32: number;
  /** Cost of `request.body`, which copies the body, beside `request.borrow()`. */
  bodies: BodyCheck[];
}

/** p50 in µs of round trips whose handler reads the body and responds with a few bytes. */
export interface BodyCheck {
  payload_bytes: number;
  own_us: number;
  borrowed_us: number;
}

// ---- headers -----------------------------------------------------------------------------------------------------------

type Header = [name: string, value: string];

function traceId(serial: number): string {
  return serial.toString(16).padStart(16, "0");
}

function tenHeaders(prefix: string): Header[] {
  const headers = Array.from({ length: 9 }, (_, i): Header => [`${prefix}-${i}`, `the value number ${i}`]);
  return [...headers, [`${prefix}-trace`, traceId(0)]];
}

/** Changes the value of the last header. */
function retraced(headers: Header[], serial: number): Header[] {
  headers[9]![1] = traceId(serial);
  return headers;
}

/** Iterates over all headers. Returns their length, so that the loop is not optimized away. */
function readAll(headers: Iterable<Header>): number {
  let length = 0;
  for (const [name, value] of headers) length += name.length + value.length;
  return length;
}

/**
 * The worker's side. `/echo` returns the body, `/echo-borrowed` a view of the body. `/own` and `/borrowed` read the body.
 * `/headers` and `/vary` read all headers and return ten headers.
 */
export function headersHandler(): Handler {
  const constant = tenHeaders("x-response");
  const varying = tenHeaders("x-response");
  const expected = readAll(tenHeaders("x-request"));
  let serial = 0;
  return (request) => {
    if (request.path === "/echo") return request.body;
    if (request.path === "/echo-borrowed") return request.borrow().body;
    if (request.path === "/own") return lookInto(request.body);
    if (request.path === "/borrowed") {
      using view = request.borrow();
      return lookInto(view.body);
    }
    if (readAll(request.headers) !== expected) throw new Error("the request's headers did not arrive");
    return { headers: request.path === "/vary" ? retraced(varying, serial++) : constant, body: request.body };
  };
}

/** Reads one byte of each page, which proves that the body has arrived. */
function lookInto(body: Uint8Array): string {
  let sum = 0;
  for (let at = 0; at < body.length; at += 4096) sum += body[at]!;
  return `${body.length} ${sum}`;
}

/** The client's side: one function for each path. */
function askers({
  bus,
}: SlotbusContestant): Record<"/echo" | "/headers" | "/vary", (body: Uint8Array) => Promise<Uint8Array>> {
  const constant = tenHeaders("x-request");
  const varying = tenHeaders("x-request");
  const expected = readAll(tenHeaders("x-response"));
  let serial = 0;
  const ask = async (path: string, headers: HeadersLike | undefined, body: Uint8Array): Promise<Uint8Array> => {
    const response = await bus.request({ path, headers, body });
    if (readAll(response.headers) !== (headers ? expected : 0))
      throw new CommandError("the response's headers did not arrive");
    return response.body;
  };
  return {
    "/echo": (body) => ask("/echo", undefined, body),
    "/headers": (body) => ask("/headers", constant, body),
    "/vary": (body) => ask("/vary", retraced(varying, serial++), body),
  };
}

// ---- the physical limit ------------------------------------------------------------------------------------------------

/** Compiles `spin.c`. Returns `null` without a C compiler or a second processor. */
function compileSpin(workspace: Workspace): string | null {
  return availableParallelism() < 2 ? null : compile(join(import.meta.dir, "spin.c"), workspace);
}

function spinNs(program: string): number {
  const { exitCode, stdout } = Bun.spawnSync([program], { stdio: ["ignore", "pipe", "inherit"] });
  if (exitCode !== 0) throw new CommandError(`spin.c exited with code ${exitCode}`);
  return Number(stdout.toString());
}

// ---- all checks --------------------------------------------------------------------------------------------------------

async function roundTrips(
  contestant: SlotbusContestant,
  workspace: Workspace,
  rounds: number,
): Promise<Omit<Checks, "slots_256_over_32" | "bodies">> {
  const spin = compileSpin(workspace);
  const ask = askers(contestant);
  const kinds = ["/echo", "/headers", "/vary", ...(spin ? (["spin"] as const) : [])] as const;
  const results = await alternate(kinds, rounds, async (kind) => {
    if (kind === "spin") return spinNs(spin!);
    const { latencies } = await closedLoop(ask[kind], makeBodies(64, 1), { samples: 5_000, minimum: 500, ms: 100 });
    return median(latencies);
  });
  const of = (kind: (typeof kinds)[number]): number => median(results.get(kind) ?? []);
  const bare = of("/echo");
  return {
    spin_limit_us: spin ? round(of("spin") / 1000) : null,
    rtt_over_spin_limit: spin ? round(bare / of("spin")) : null,
    headers_ratio: round(of("/headers") / bare),
    headers_one_varies_ratio: round(of("/vary") / bare),
  };
}

async function slots(narrow: SlotbusContestant, workspace: Workspace, rounds: number): Promise<number> {
  const wide = await startSlotbus(workspace, 256);
  const results = await alternate([narrow, wide], rounds, async ({ call }) =>
    perSecond(
      await closedLoop(call, makeBodies(64, 32), { leadInMs: 200, samples: Infinity, minimum: 1_000, ms: 100 }),
    ),
  );
  await wide.stop();
  return round(median(results.get(wide)!) / median(results.get(narrow)!));
}

/** Measures `/own` and `/borrowed` in alternating rounds. */
async function bodies({ bus }: SlotbusContestant, rounds: number): Promise<BodyCheck[]> {
  const checks: BodyCheck[] = [];
  for (const bytes of [64 * 1024, 1024 ** 2]) {
    const results = await alternate(["/own", "/borrowed"], rounds, async (path) => {
      const call = async (body: Uint8Array): Promise<Uint8Array> => {
        const answer = await bus.request({ path, body });
        if (answer.text() !== lookInto(body)) throw new CommandError(`${path} returned "${answer.text()}"`);
        return body;
      };
      const { latencies } = await closedLoop(call, makeBodies(bytes, 1), { samples: 5_000, minimum: 50, ms: 100 });
      return median(latencies);
    });
    const of = (path: string): number => round(median(results.get(path) ?? []) / 1000);
    checks.push({ payload_bytes: bytes, own_us: of("/own"), borrowed_us: of("/borrowed") });
  }
  return checks;
}

/** Runs each check for `rounds` alternating rounds. */
export async function runChecks(contestant: SlotbusContestant, workspace: Workspace, rounds: number): Promise<Checks> {
  return {
    ...(await roundTrips(contestant, workspace, rounds)),
    slots_256_over_32: await slots(contestant, workspace, rounds),
    bodies: await bodies(contestant, rounds),
  };
}

// ---- idle --------------------------------------------------------------------------------------------------------------

/** Waits for `settle` ms, then counts the bells and wake-ups of both sides during `ms` of idleness. */
export async function idleWakeups({ bus, worker }: SlotbusContestant, settle: number, ms: number): Promise<number> {
  const count = async (): Promise<number> => {
    const { bells, wakeups } = bus.stats();
    return bells + wakeups + (await worker.ask("wakeups"));
  };
  await Bun.sleep(settle);
  const before = await count();
  await Bun.sleep(ms);
  return (await count()) - before;
}

/**
 * CPU time of an idle client and worker, less that of two idle empty Bun processes, in ms per minute, after one minute to
 * settle. Each of the four has an IPC channel to this process, which sends nothing meanwhile.
 */
export async function idleCpu(workspace: Workspace): Promise<number> {
  const ours = [await workspace.start("idle-client", "idle"), await workspace.start("slotbus", "idle")];
  const bare = [await workspace.start("bare"), await workspace.start("bare")];
  const total = async (peers: Peer[]): Promise<number> => {
    const used = await Promise.all(peers.map((peer) => peer.ask("cpu")));
    return used.reduce((sum, ms) => sum + ms, 0);
  };
  const difference = async (): Promise<number> => (await total(ours)) - (await total(bare));
  await Bun.sleep(60_000);
  const before = await difference();
  await Bun.sleep(60_000);
  const after = await difference();
  await Promise.all([...ours, ...bare].map((peer) => peer.stop()));
  return round(after - before);
}
