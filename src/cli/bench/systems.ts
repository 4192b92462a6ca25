/** The contestants. Each moves the same bytes to another process (or thread) and back, and checks none of them. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BusResponse, SlotBus } from "../../index.ts";
import { FrameReader, FrameWriter } from "./frames.ts";

/** Names as they stand in the JSON. */
export const SYSTEMS = ["slotbus", "fetch-tcp", "fetch-unix", "bun-ipc", "unix-socket", "worker-postmessage"] as const;

export type SystemName = (typeof SYSTEMS)[number];

/** A contestant that is ready to be asked. */
export interface Contestant {
  readonly name: SystemName;
  /** Process that answers; our own for a thread. */
  readonly pid: number;
  /** Sends a body and resolves to the one that came back. */
  call(body: Uint8Array): Promise<Uint8Array>;
  stop(): Promise<void>;
}

/** The bus of a slotbus contestant, for what the other contestants do not have. */
export interface SlotbusContestant extends Contestant {
  readonly bus: SlotBus;
  /** Times the worker was woken so far. */
  workerWakeups(): Promise<number>;
}

const peer = join(import.meta.dir, "peer.ts");

/** A private directory for sockets; removed by the last `stop`. */
export class Workspace implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "slotbus-bench-"));

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** A child that runs `peer.ts`; resolves when it has sent its first message, which it returns. */
export async function startPeer(args: string[], workspace: Workspace, onMessage: (message: unknown) => void) {
  const { promise: ready, resolve } = Promise.withResolvers<unknown>();
  let first = true;
  const child = Bun.spawn([process.execPath, peer, ...args], {
    env: { ...process.env, SLOTBUS_DIR: workspace.path },
    stdio: ["ignore", "inherit", "inherit"],
    serialization: "advanced",
    ipc: (message) => {
      if (first) resolve(message);
      else onMessage(message);
      first = false;
    },
    onExit: (_, code) => resolve(new Error(`the ${args[0]} peer ended with ${code}`)),
  });
  const message = await ready;
  if (message instanceof Error) throw message;
  const stop = async (): Promise<void> => {
    child.kill();
    await child.exited;
  };
  return { child, message, stop };
}

const bodyOf = (response: BusResponse): Uint8Array => response.body;

/** A slotbus contestant of its own; `slots` undefined is the default. */
export async function startSlotbus(workspace: Workspace, slots?: number): Promise<SlotbusContestant> {
  const name = `bench-${slots ?? "default"}`;
  const bus = await SlotBus.create({ name, directory: workspace.path, slots });
  let answer: (count: number) => void = () => {};
  const { child, stop } = await startPeer(["slotbus", name], workspace, (count) => answer(count as number));
  await bus.ready();
  return {
    name: "slotbus",
    pid: bus.workers[0]!.pid,
    bus,
    call: (body) => bus.request({ path: "/echo", body }).then(bodyOf),
    workerWakeups: () => {
      const { promise, resolve } = Promise.withResolvers<number>();
      answer = resolve;
      child.send("wakeups");
      return promise;
    },
    stop: async () => {
      await bus.close();
      await stop();
    },
  };
}

async function startFetch(workspace: Workspace, name: "fetch-tcp" | "fetch-unix"): Promise<Contestant> {
  const unix = name === "fetch-unix" ? join(workspace.path, "fetch.sock") : undefined;
  const { child, message, stop } = await startPeer([name, unix ?? ""], workspace, () => {});
  const url = unix ? "http://localhost/echo" : `http://127.0.0.1:${String(message)}/echo`;
  return {
    name,
    pid: child.pid,
    call: async (body) => {
      const response = await fetch(url, { method: "POST", body: body as Uint8Array<ArrayBuffer>, unix });
      return response.bytes();
    },
    stop,
  };
}

/** Callers by id, for systems that answer with a message. */
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

  answer(id: number, body: Uint8Array): void {
    this.#waiting.get(id)?.(body);
    this.#waiting.delete(id);
  }
}

async function startIpc(workspace: Workspace): Promise<Contestant> {
  const calls = new Calls();
  const { child, stop } = await startPeer(["bun-ipc"], workspace, (message) => {
    const { id, body } = message as { id: number; body: Uint8Array };
    calls.answer(id, body);
  });
  return {
    name: "bun-ipc",
    pid: child.pid,
    call: (body) => calls.open((id) => child.send({ id, body })),
    stop,
  };
}

async function startUnixSocket(workspace: Workspace): Promise<Contestant> {
  const path = join(workspace.path, "raw.sock");
  const { child, stop } = await startPeer(["unix-socket", path], workspace, () => {});
  const calls = new Calls();
  const reader = new FrameReader((id, body) => calls.answer(id, body));
  const writer = new FrameWriter();
  const socket = await Bun.connect({
    unix: path,
    socket: { data: (_, bytes) => reader.push(bytes), drain: (s) => writer.flush(s) },
  });
  return {
    name: "unix-socket",
    pid: child.pid,
    call: (body) => calls.open((id) => writer.write(socket, id, body)),
    stop: async () => {
      socket.end();
      await stop();
    },
  };
}

async function startThread(): Promise<Contestant> {
  const thread = new Worker(join(import.meta.dir, "thread.ts"));
  const calls = new Calls();
  thread.onmessage = ({ data: { id, body } }: { data: { id: number; body: Uint8Array } }) => calls.answer(id, body);
  return {
    name: "worker-postmessage",
    pid: process.pid,
    call: (body) => calls.open((id) => thread.postMessage({ id, body })),
    stop: async () => void (await thread.terminate()),
  };
}

/** Starts a contestant with its default options. */
export function start(name: SystemName, workspace: Workspace): Promise<Contestant> {
  switch (name) {
    case "slotbus":
      return startSlotbus(workspace);
    case "fetch-tcp":
    case "fetch-unix":
      return startFetch(workspace, name);
    case "bun-ipc":
      return startIpc(workspace);
    case "unix-socket":
      return startUnixSocket(workspace);
    case "worker-postmessage":
      return startThread();
  }
}
