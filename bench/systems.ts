/** The contestants of the suite `bus`. Each sends the same bytes to another process or thread and back. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { SlotBus, socket } from "../src/index.ts";
import { CommandError } from "../src/cli/usage.ts";
import { FrameReader, FrameWriter } from "./frames.ts";
import type { Call, Order, Round } from "./measure.ts";

/** Names in the JSON. */
export const SYSTEMS = [
  "slotbus",
  "slotbus-socket",
  "fetch-tcp",
  "fetch-unix",
  "bun-ipc",
  "unix-socket",
  "worker-postmessage",
] as const;

export type SystemName = (typeof SYSTEMS)[number];

/** Systems of `rivals/`, which a checkout measures. */
export type RivalName = "iceoryx2-polling" | "iceoryx2-events" | "slotbus-rust" | "grpc-unix" | "redis" | "nats";

/** First message of the process or thread that responds. */
export interface Introduction {
  /** Its `process.pid`. */
  pid: number;
  isMainThread: boolean;
  /** Address on which it listens, if it chose the address. */
  address: string;
}

/** A contestant that is ready for requests. */
export interface Contestant {
  readonly name: SystemName | RivalName;
  readonly answerer: Introduction;
  /** Sends a body. Resolves to the body that came back; until then, the sent body must not change. */
  call: Call;
  /** Measures a round in a client of another language, in place of `call`. */
  readonly measure?: (order: Order) => Promise<Round>;
  /** Most requests in flight at which the system works. Default: no limit. */
  readonly mostInFlight?: number;
  stop(): Promise<void>;
}

/** The contestant `slotbus`, with its bus and worker. */
export interface SlotbusContestant extends Contestant {
  readonly bus: SlotBus;
  readonly worker: Peer;
}

/** A process that runs `peer.ts`. */
export interface Peer {
  readonly introduction: Introduction;
  send(message: unknown): void;
  /** CPU time of the peer's process in ms, or number of wake-ups of its worker. */
  ask(question: "cpu" | "wakeups"): Promise<number>;
  /** Standard output, if {@link PeerOptions} ask for it. */
  readonly stdout: ReadableStream<Uint8Array> | null;
  /** Sends a signal, by default SIGTERM, and waits for the end of the process. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Options of {@link Workspace.start}. By default a peer runs `peer.ts` of this folder, without standard output. */
export interface PeerOptions {
  program?: string;
  /** Runtime of the program; default this Bun. Other runtimes exchange messages as JSON. */
  runtime?: string;
  stdout?: "pipe";
  /** Returns the command that runs a command in another place. */
  inside?: (command: string[]) => string[];
  /** Called with each message that does not answer `ask`. */
  onMessage?: (message: unknown) => void;
}

/** Owns the processes of a run and a private directory for its sockets. Disposal kills and removes them. */
export class Workspace implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "slotbus-bench-"));
  /** Rejects when a peer or thread fails or ends without being stopped. */
  readonly failed: Promise<never>;
  readonly #fail: (reason: CommandError) => void;
  readonly #children = new Set<Subprocess>();
  readonly #onExit = (): void => this[Symbol.dispose]();

  constructor() {
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {}); // the next round sees a failure between rounds
    this.failed = promise;
    this.#fail = reject;
    process.once("exit", this.#onExit);
  }

  fail(what: string): void {
    this.#fail(new CommandError(what));
  }

  /** Starts `bun peer.ts ROLE ADDRESS` and waits for its introduction. */
  async start(role: string, address = "", options: PeerOptions = {}): Promise<Peer> {
    const { program = Bun.resolveSync("./peer", import.meta.dir), runtime, stdout, onMessage = () => {} } = options;
    const command = [runtime ?? process.execPath, program, role, address];
    const introduced = Promise.withResolvers<Introduction>();
    let settle: (message: unknown) => void = (first) => {
      settle = onMessage;
      introduced.resolve(first as Introduction);
    };
    const child = Bun.spawn(options.inside?.(command) ?? command, {
      env: { ...process.env, SLOTBUS_DIR: this.path },
      stdio: ["ignore", stdout ?? "ignore", "inherit"],
      serialization: runtime === undefined ? "advanced" : "json",
      ipc: (message) => settle(message),
      onExit: (ended, code, signal) => {
        if (this.#children.delete(ended)) this.fail(`the process of ${role} ended with ${signal ?? `code ${code}`}`);
      },
    });
    this.#children.add(child);
    const introduction = await Promise.race([introduced.promise, this.failed]);
    return {
      introduction,
      send: (message) => void child.send(message),
      stdout: (child.stdout as ReadableStream<Uint8Array> | undefined) ?? null,
      ask: (question) => {
        const { promise, resolve } = Promise.withResolvers<number>();
        settle = (answer) => {
          settle = onMessage;
          resolve(answer as number);
        };
        child.send(question);
        return Promise.race([promise, this.failed]);
      },
      stop: (signal) => this.#stop(child, signal),
    };
  }

  /** Starts another program, without input and output. */
  run(name: string, command: string[]): { pid: number; stop(signal?: NodeJS.Signals): Promise<void> } {
    const child = Bun.spawn(command, {
      cwd: this.path,
      stdio: ["ignore", "ignore", "ignore"],
      onExit: (ended, code, signal) => {
        if (this.#children.delete(ended)) this.fail(`${name} ended with ${signal ?? `code ${code}`}`);
      },
    });
    this.#children.add(child);
    return { pid: child.pid, stop: (signal) => this.#stop(child, signal) };
  }

  async #stop(child: Subprocess, signal?: NodeJS.Signals): Promise<void> {
    this.#children.delete(child);
    child.kill(signal);
    await child.exited;
  }

  [Symbol.dispose](): void {
    process.off("exit", this.#onExit);
    for (const child of this.#children) {
      this.#children.delete(child);
      child.kill("SIGKILL");
    }
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Starts a slotbus contestant. Without `slots` all its options are defaults. `program`: see {@link PeerOptions}. */
export async function startSlotbus(workspace: Workspace, slots?: number, program?: string): Promise<SlotbusContestant> {
  const name = `bench-${slots ?? "default"}`;
  const bus = await SlotBus.create({ name, directory: workspace.path, slots });
  const worker = await workspace.start("slotbus", name, { program });
  await Promise.race([bus.ready(), workspace.failed]);
  const { pid } = bus.workers[0]!; // from the kernel
  if (pid !== worker.introduction.pid) throw new CommandError(`process ${pid} attached, not the worker of the bench`);
  return {
    name: "slotbus",
    answerer: worker.introduction,
    bus,
    worker,
    // Handlers borrow large bodies, as recommended for a handler that reads at once; `checks.ts` measures the copy.
    call: (body) => bus.request({ path: body.length > bus.options.inlineBytes ? "/echo-borrowed" : "/echo", body }),
    stop: async () => {
      await bus.close({ timeout: 100 });
      await worker.stop();
    },
  };
}

/** slotbus over a unix socket, as it runs where memory cannot be shared. */
export async function startSlotbusSocket(workspace: Workspace, payloadBytes?: number): Promise<Contestant> {
  const name = "bench-socket";
  const bus = await SlotBus.create({ name, directory: workspace.path, payloadBytes, via: socket() });
  const worker = await workspace.start("slotbus-socket", name);
  await bus.ready();
  return {
    name: "slotbus-socket",
    answerer: worker.introduction,
    call: (body) => bus.request({ path: "/echo", body }),
    stop: async () => {
      await bus.close({ timeout: 100 });
      await worker.stop();
    },
  };
}

async function startFetch(workspace: Workspace, name: "fetch-tcp" | "fetch-unix"): Promise<Contestant> {
  const unix = name === "fetch-unix" ? join(workspace.path, "fetch.sock") : undefined;
  const { introduction, stop } = await workspace.start(name, unix);
  const url = unix ? "http://localhost/echo" : `http://${introduction.address}/echo`;
  return {
    name,
    answerer: introduction,
    call: async (body) => {
      const response = await fetch(url, { method: "POST", body: body as Uint8Array<ArrayBuffer>, unix });
      return response.bytes();
    },
    stop,
  };
}

/** A message of a system without request and response. */
interface Message {
  id: number;
  body: Uint8Array;
}

/** Matches responses with callers by id. */
class Calls {
  readonly #waiting = new Map<number, (body: Uint8Array) => void>();
  #id = 0;

  open(send: (id: number) => void): Promise<Uint8Array> {
    const id = (this.#id = (this.#id + 1) >>> 0);
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      send(id);
    });
  }

  answer({ id, body }: Message): void {
    this.#waiting.get(id)?.(body);
    this.#waiting.delete(id);
  }
}

async function startIpc(workspace: Workspace): Promise<Contestant> {
  const calls = new Calls();
  const peer = await workspace.start("bun-ipc", "", { onMessage: (message) => calls.answer(message as Message) });
  return {
    name: "bun-ipc",
    answerer: peer.introduction,
    call: (body) => calls.open((id) => peer.send({ id, body } satisfies Message)),
    stop: () => peer.stop(),
  };
}

/** Connects to a peer of the role `unix-socket`. */
export async function connectSocket(path: string): Promise<{ call: Call; end(): void }> {
  const calls = new Calls();
  const reader = new FrameReader((id, body) => calls.answer({ id, body }));
  const socket = await Bun.connect({
    unix: path,
    socket: { data: (_, bytes) => reader.push(bytes), drain: () => writer.flush() },
  });
  const writer = new FrameWriter(socket);
  return { call: (body) => calls.open((id) => writer.write(id, body)), end: () => void socket.end() };
}

async function startUnixSocket(workspace: Workspace): Promise<Contestant> {
  const path = join(workspace.path, "raw.sock");
  const { introduction, stop } = await workspace.start("unix-socket", path);
  const { call, end } = await connectSocket(path);
  return {
    name: "unix-socket",
    answerer: introduction,
    call,
    stop: async () => {
      end();
      await stop();
    },
  };
}

async function startThread(workspace: Workspace): Promise<Contestant> {
  const thread = new Worker(Bun.resolveSync("./thread", import.meta.dir));
  const calls = new Calls();
  const introduced = Promise.withResolvers<Introduction>();
  thread.onerror = ({ message }) => workspace.fail(`the thread failed:\n${message}`);
  thread.onmessage = ({ data }: MessageEvent<Introduction>) => introduced.resolve(data);
  const answerer = await Promise.race([introduced.promise, workspace.failed]);
  thread.onmessage = ({ data }: MessageEvent<Message>) => calls.answer(data);
  return {
    name: "worker-postmessage",
    answerer,
    call: (body) => calls.open((id) => thread.postMessage({ id, body } satisfies Message)),
    stop: async () => void (await thread.terminate()),
  };
}

/** Starts a contestant with its default options. */
export function start(name: SystemName, workspace: Workspace): Promise<Contestant> {
  switch (name) {
    case "slotbus":
      return startSlotbus(workspace);
    case "slotbus-socket":
      return startSlotbusSocket(workspace);
    case "fetch-tcp":
    case "fetch-unix":
      return startFetch(workspace, name);
    case "bun-ipc":
      return startIpc(workspace);
    case "unix-socket":
      return startUnixSocket(workspace);
    case "worker-postmessage":
      return startThread(workspace);
  }
}
