/**
 * Shows why the doorbell is the control socket: measures round trips between two Bun processes that only wake each other,
 * by unix socket, FIFO and eventfd. Run: `bun bench/dev/doorbell.ts`.
 *
 * There is no bus and no spinning: the worker rings back from the callback that woke it. Each bell rings with one system
 * call. Bun's event loop watches the socket as a socket and the other two as streams, the only way it has for them. A
 * socket also reports the end of the peer, and no third process can drain it.
 */

import { dlopen } from "bun:ffi";
import { constants, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { alternate, closedLoop, makeBodies, type Round, sparseLoop, summarise } from "../measure.ts";
import { C, native } from "../../src/native/library.ts";

const KINDS = ["unix-socket", "fifo", "eventfd"] as const;
const ROUNDS = 5;
const SPARSE_SAMPLES = 200;

type Kind = (typeof KINDS)[number];
type Ring = () => void;

/** Calls `onRing` for each read of a stream. */
async function watch(fd: number, onRing: Ring): Promise<void> {
  for await (const _ of Bun.file(fd).stream()) onRing();
}

/** A bell of two descriptors: it reads from one and writes `bytes` to the other. */
function pairOfFiles(read: number, write: number, bytes: Uint8Array, onRing: Ring): Ring {
  void watch(read, onRing);
  return () => void writeSync(write, bytes);
}

function fifo(path: string): number {
  return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
}

const oneByte = new Uint8Array([1]);
const oneCount = new Uint8Array(new BigUint64Array([1n]).buffer);

function ringSocket(fd: number): Ring {
  return () => void native.sb_control_send(fd, C.SB_MSG_BELL, null, 0);
}

/** The socket of `Bun.connect` has a descriptor, which Bun's types omit. */
function fdOf(socket: object): number {
  return (socket as { fd: number }).fd;
}

// ---- the worker --------------------------------------------------------------------------------------------------------

async function answer(kind: Kind, first: string, second: string): Promise<void> {
  let ring: Ring = () => {};
  const onRing = (): void => ring();
  if (kind === "unix-socket") {
    ring = ringSocket(fdOf(await Bun.connect({ unix: first, socket: { data: onRing } })));
  } else if (kind === "fifo") {
    ring = pairOfFiles(fifo(first), fifo(second), oneByte, onRing);
  } else {
    ring = pairOfFiles(Number(first), Number(second), oneCount, onRing);
  }
  ring(); // ready
}

// ---- the client --------------------------------------------------------------------------------------------------------

interface Doorbell {
  kind: Kind;
  call: (body: Uint8Array) => Promise<Uint8Array>;
  stop: () => void;
}

const libc = dlopen("libc.so.6", { eventfd: { args: ["u32", "i32"], returns: "i32" } }).symbols;

/** `EFD_CLOEXEC | EFD_NONBLOCK` */
const EVENTFD_FLAGS = 0o2004000;

/** The library has no eventfd, because Bun closes an eventfd that it gets as a socket at the first event. */
function eventfd(): number {
  return libc.eventfd(0, EVENTFD_FLAGS);
}

async function start(kind: Kind, directory: string): Promise<Doorbell> {
  const paths = [join(directory, `${kind}-there`), join(directory, `${kind}-back`)] as const;
  let onRing: Ring = () => {};
  let ring: Ring = () => {};
  let inherited: number[] = [];
  if (kind === "unix-socket") {
    const open = (socket: object): void => void (ring = ringSocket(fdOf(socket)));
    Bun.listen({ unix: paths[0], socket: { open, data: () => onRing() } });
  } else if (kind === "fifo") {
    Bun.spawnSync(["mkfifo", ...paths]);
    ring = pairOfFiles(fifo(paths[1]), fifo(paths[0]), oneByte, () => onRing());
  } else {
    inherited = [eventfd(), eventfd()];
    ring = pairOfFiles(inherited[1]!, inherited[0]!, oneCount, () => onRing());
  }
  const ready = new Promise<void>((resolve) => (onRing = resolve));
  const child = Bun.spawn([process.execPath, import.meta.path, kind, ...(inherited.length > 0 ? ["3", "4"] : paths)], {
    stdio: ["ignore", "ignore", "inherit", ...inherited],
  });
  await ready;
  const call = (body: Uint8Array): Promise<Uint8Array> =>
    new Promise((resolve) => {
      onRing = () => resolve(body);
      ring();
    });
  return { kind, call, stop: () => child.kill() };
}

async function ask(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-doorbell-"));
  const doorbells: Doorbell[] = [];
  const [body] = makeBodies(64, 1);
  const cases: Record<string, (bell: Doorbell) => Promise<Round>> = {
    "back to back": ({ call }) => closedLoop(call, [body!], { samples: Infinity, minimum: 100, ms: 200 }),
    "one each millisecond": ({ call }) => sparseLoop(call, body!, SPARSE_SAMPLES),
  };
  try {
    for (const kind of KINDS) doorbells.push(await start(kind, directory));
    for (const [name, run] of Object.entries(cases)) {
      for (const [{ kind }, rounds] of await alternate(doorbells, ROUNDS, run)) {
        const { p50_us: p50, p99_us: p99 } = summarise(rounds);
        console.log(`${name.padEnd(22)}${kind.padEnd(13)}p50 ${p50.toFixed(1)} µs, p99 ${p99.toFixed(1)} µs`);
      }
    }
  } finally {
    for (const { stop } of doorbells) stop();
    rmSync(directory, { recursive: true });
  }
}

const [kind, first = "", second = ""] = process.argv.slice(2);
if (kind) await answer(kind as Kind, first, second);
else await ask().finally(() => process.exit());
