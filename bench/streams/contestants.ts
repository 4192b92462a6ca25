/** The contestants of the suite `streams`. Each orders a stream from another process or thread and checks the bytes. */

import { join } from "node:path";
import { CommandError } from "../../src/cli/usage.ts";
import { type Introduction, type SlotbusContestant, startSlotbus, type Workspace } from "../systems.ts";
import { type Order, Tally } from "./source.ts";

/** Names in the JSON. */
export const SYSTEMS = ["slotbus", "fetch-unix", "pipe", "worker"] as const;

export type SystemName = (typeof SYSTEMS)[number];

/** A contestant that is ready for orders. */
export interface Contestant {
  readonly name: SystemName;
  readonly answerer: Introduction;
  /** Orders a stream and reads it to its end. */
  read(order: Order): Promise<void>;
  stop(): Promise<void>;
}

/** slotbus reads in two ways: all pieces into one buffer of the reader, or each piece as a new copy. */
export interface OwnContestant extends Contestant {
  readonly slotbus: SlotbusContestant;
  readCopies(order: Order): Promise<void>;
}

const program = Bun.resolveSync("./peer", import.meta.dir);
/** Maximum size of a piece. */
const PIECE_BYTES = 65_536;

export async function startOwn(workspace: Workspace): Promise<OwnContestant> {
  const slotbus = await startSlotbus(workspace, undefined, program);
  const into = new Uint8Array(PIECE_BYTES);
  const read = async (order: Order, options: { into?: Uint8Array }): Promise<void> => {
    const tally = new Tally(order);
    const response = await slotbus.bus.stream({ path: "/source", json: order });
    for await (const piece of response.chunks(options)) tally.add(piece);
    tally.end();
  };
  return {
    name: "slotbus",
    answerer: slotbus.answerer,
    slotbus,
    read: (order) => read(order, { into }),
    readCopies: (order) => read(order, {}),
    stop: () => slotbus.stop(),
  };
}

async function startFetch(workspace: Workspace): Promise<Contestant> {
  const unix = join(workspace.path, "streams.sock");
  const { introduction, stop } = await workspace.start("fetch-unix", unix, { program });
  return {
    name: "fetch-unix",
    answerer: introduction,
    read: async (order) => {
      const tally = new Tally(order);
      const { body } = await fetch("http://localhost/", { method: "POST", body: JSON.stringify(order), unix });
      if (!body) throw new CommandError("a response has no body");
      const reader = body.getReader();
      for (let step = await reader.read(); !step.done; step = await reader.read()) tally.add(step.value);
      tally.end();
    },
    stop,
  };
}

/** One process for all rounds, so that its start does not count. Its standard output is one endless stream. */
async function startPipe(workspace: Workspace): Promise<Contestant> {
  const { introduction, stdout, send, stop } = await workspace.start("pipe", "", { program, stdout: "pipe" });
  const reader = stdout!.getReader();
  return {
    name: "pipe",
    answerer: introduction,
    read: async (order) => {
      const tally = new Tally(order);
      send(order);
      while (!tally.isFull) {
        const step = await reader.read();
        if (step.done) tally.end();
        else tally.add(step.value);
      }
    },
    stop: async () => {
      await stop();
      await reader.cancel();
    },
  };
}

/** Credit from the reader to the thread: buffers to fill again, or the number of messages read. */
export type Credit = ArrayBuffer[] | number;

/** Messages that the thread may send before it waits. The reader returns credit after a quarter of them. */
export function windowOf(order: Order): number {
  return order.chunk >= TRANSFERRED_BYTES ? 64 : 1_024;
}

/** From this size on, buffers are transferred and returned. Smaller chunks are cloned, which is faster. */
export const TRANSFERRED_BYTES = 4_096;

async function startThread(workspace: Workspace): Promise<Contestant> {
  const thread = new Worker(Bun.resolveSync("./thread", import.meta.dir));
  const introduced = Promise.withResolvers<Introduction>();
  thread.onerror = ({ message }) => workspace.fail(`the thread failed:\n${message}`);
  thread.onmessage = ({ data }: MessageEvent<Introduction>) => introduced.resolve(data);
  const answerer = await Promise.race([introduced.promise, workspace.failed]);
  return {
    name: "worker",
    answerer,
    read: (order) => {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const tally = new Tally(order);
      const every = windowOf(order) / 4;
      let used: ArrayBuffer[] = [];
      let seen = 0;
      thread.onmessage = ({ data }: MessageEvent<Uint8Array | ArrayBuffer>) => {
        try {
          tally.add(data instanceof Uint8Array ? data : new Uint8Array(data));
        } catch (error) {
          reject(error);
        }
        if (data instanceof ArrayBuffer) used.push(data);
        if (++seen % every === 0) {
          if (used.length > 0) thread.postMessage(used satisfies Credit, used);
          else thread.postMessage(every satisfies Credit);
          used = [];
        }
        if (tally.isFull) resolve();
      };
      thread.postMessage(order);
      return promise;
    },
    stop: async () => void (await thread.terminate()),
  };
}

/** Starts an alternative to slotbus. */
export function startRival(name: Exclude<SystemName, "slotbus">, workspace: Workspace): Promise<Contestant> {
  switch (name) {
    case "fetch-unix":
      return startFetch(workspace);
    case "pipe":
      return startPipe(workspace);
    case "worker":
      return startThread(workspace);
  }
}
