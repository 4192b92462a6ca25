/**
 * The processes that the system checks watch, by role. A process prints a line when it is ready, reads commands from standard
 * input, one per line, and prints `done COMMAND` after each. It ends in good order on `quit` or the end of its input.
 *
 *     bun program.ts bare DIRECTORY
 *     bun program.ts client DIRECTORY [uid,... [INLINE_SIZE]]
 *     bun program.ts sharer DIRECTORY
 *     bun program.ts worker DIRECTORY
 *     bun program.ts patient DIRECTORY
 *     bun program.ts flood DIRECTORY
 *     bun program.ts threads DIRECTORY
 *     bun program.ts member DIRECTORY
 */

import { dlopen, FFIType } from "bun:ffi";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { BusResponse, SlotBus, SlotbusError, SlotWorker } from "../../src/index.ts";
import { type Command, describe, obey as carryOut, say } from "./orders.ts";

const name = "system";
const [role = "", directory = "", uids = "", inline = "16384"] = process.argv.slice(2);

function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`);
}

/** Commands of every role. */
const own: Record<string, Command> = {
  /** Prints the number of regions that this process maps. */
  mappings: () => {
    const lines = readFileSync("/proc/self/maps", "latin1").split("\n");
    say(`mappings ${lines.filter((line) => line.includes("memfd:slotbus (")).length}`);
  },
  /** Starts a child that sleeps. */
  spawn: () => {
    const child = Bun.spawn(["sleep", "1000"], { stdio: ["ignore", "ignore", "ignore"] });
    child.unref();
    say(`child ${child.pid}`);
  },
  /** Starts a child that sleeps with libc; `fork` starts a fork of this process. */
  system: () => {
    const symbols = { system: { args: [FFIType.cstring], returns: FFIType.i32 } } as const;
    dlopen("libc.so.6", symbols).symbols.system(cString("sleep 1000 </dev/null >/dev/null 2>&1 & echo child $!"));
  },
  fork: (library) => {
    const symbols = { fork_and_wait: { args: [], returns: FFIType.i32 } } as const;
    say(`child ${dlopen(library!, symbols).symbols.fork_and_wait()}`);
  },
  /** Prints the targets of the descriptors that belong to slotbus. */
  descriptors: () => {
    const targets = readdirSync("/proc/self/fd").map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return ""; // the descriptor of this listing
      }
    });
    say(
      `descriptors ${targets.filter((target) => /socket:|slotbus|system\.(lock|fleet)|pidfd|statm/.test(target)).join(" ")}`,
    );
  },
};

const obey = (commands: Record<string, Command>): Promise<void> => carryOut({ ...own, ...commands });

async function client(): Promise<void> {
  const { SlotBus: Bus } = await import("../../src/index.ts");
  const allowedUids = uids === "" ? [] : uids.split(",").map(Number);
  const options = { name, directory, allowedUids, inlineBytes: Number(inline) };
  const bus: SlotBus = role === "sharer" ? await Bus.connect(options) : await Bus.create(options);
  bus.on("refused", (peer, reason) => say(`refused uid ${peer.uid}: ${reason}`));
  say("listening");
  const joined = bus.ready().then(() => say(`joined uid ${bus.workers[0]?.uid}`));
  await obey({
    go: async (requests) => {
      await joined;
      for (let n = 0; n < Number(requests); n++) {
        const response = await bus.request({ path: "/echo", body: `request ${n}` });
        if (response.text() !== `request ${n}`) throw new Error(`wrong response: ${response.text()}`);
      }
    },
    /** Sends chunks of 4 KiB as the body of one request and reads them back from its response. */
    stream: async (chunks) => {
      await joined;
      const bytes = new Uint8Array(4_096);
      const body = function* () {
        for (let n = 0; n < Number(chunks); n++) yield bytes;
      };
      let left = Number(chunks) * bytes.length;
      const response = await bus.stream({ path: "/stream", body: body() });
      for await (const chunk of response.chunks({ into: new Uint8Array(65_536) })) left -= chunk.length;
      if (left !== 0) throw new Error(`${left} bytes are missing`);
    },
    /** Sends one request; prints how long it took, in ms, and how it ended. */
    ask: async (path, query, timeout) => {
      await joined;
      const started = performance.now();
      const result = await bus.request({ path: path!, query }, { timeout: Number(timeout) }).then(
        (response: BusResponse) => response.text(),
        (error: SlotbusError) => `${error.code} ${error.mayHaveExecuted}`,
      );
      say(`asked ${Math.round(performance.now() - started)} ${result}`);
    },
    workers: () => say(`workers ${bus.workers.length}`),
  });
  joined.catch(() => {}); // rejects if the bus closes before a worker attaches
  await bus.close();
}

async function serve(options: { timeout: number }): Promise<SlotWorker> {
  const { SlotWorker: Worker } = await import("../../src/index.ts");
  const ours = directory === "" ? {} : { directory };
  const attached: SlotWorker = await Worker.open({ name, ...ours, reconnect: false, ...options });
  attached.serve(async (request) => {
    if (request.path === "/exit") process.exit(7);
    if (request.path === "/stream") return request.incoming.chunks();
    if (request.path === "/deadline") return String(request.deadline - Date.now());
    if (request.path === "/slow") {
      const { promise, resolve } = Promise.withResolvers<void>();
      const started = performance.now();
      request.signal.addEventListener("abort", () => say(`aborted ${Math.round(performance.now() - started)}`));
      setTimeout(resolve, Number(request.query));
      await promise;
    }
    return request.text();
  });
  attached.on("disconnected", () => say("disconnected"));
  attached.on("refused", (error) => say(describe(error)));
  return attached;
}

async function worker(): Promise<void> {
  const attached = await serve({ timeout: 1_000 });
  say("attached");
  await obey({});
  await attached.close();
}

/** A worker that attaches on the command `open`. */
async function patient(): Promise<void> {
  const library = await import("../../src/index.ts");
  await library.SlotWorker.open({ name: "nobody", directory, timeout: 0 }).catch(() => {}); // loads the wire
  let attached = null as SlotWorker | null;
  say("waiting");
  await obey({
    open: async (timeout) => {
      attached = await serve({ timeout: Number(timeout ?? 0) });
      say("attached");
    },
    close: async () => {
      await attached?.close();
      attached = null;
    },
  });
  await attached?.close();
}

/** A Bun program with one Unix socket and without slotbus. Bun itself wakes up once a second for the socket. */
async function bare(): Promise<void> {
  const unix = `${directory}/bare.sock`;
  const socket = { open() {}, data() {}, close() {} };
  Bun.listen({ unix, socket });
  await Bun.connect({ unix, socket });
  say("waiting");
  await obey({
    go: async (rounds) => {
      for (let n = 0; n < Number(rounds); n++) await new Promise((done) => setImmediate(done));
    },
  });
}

/** Connects to the bus again and again, sixteen at a time, with a byte of garbage each. */
async function flood(): Promise<void> {
  const unix = `${directory}/${name}.sock`;
  let refused = 0;
  const connect = async (): Promise<void> => {
    for (;;) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const socket = { open() {}, data() {}, close: () => resolve(), error: () => resolve() };
      const opened = await Bun.connect({ unix, socket }).catch(() => null);
      opened?.write("x");
      if (opened) await promise;
      if (opened) refused++;
      await Bun.sleep(1);
    }
  };
  for (let n = 0; n < 16; n++) void connect();
  say("flooding");
  await obey({ count: () => say(`refused ${refused}`) });
}

/** Starts and ends threads that run a client or a worker of this file. */
async function threads(): Promise<void> {
  let thread: Worker | null = null;
  say("waiting");
  await obey({
    start: async (what) => {
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      thread = new Worker(new URL("./thread.ts", import.meta.url));
      thread.onmessage = ({ data }) => resolve(data);
      thread.onerror = ({ message }) => reject(new Error(message));
      thread.postMessage({ what, name, directory });
      say(String(await promise));
    },
    terminate: async () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      thread!.addEventListener("close", () => resolve());
      thread!.terminate();
      await promise;
    },
  });
}

async function member(): Promise<void> {
  const { memberCommands } = await import("./member.ts");
  say("waiting");
  const commands = memberCommands(name, directory, say);
  await obey(commands);
  await commands["leave"]!();
}

const roles: Record<string, () => Promise<void>> = {
  bare,
  flood,
  client,
  sharer: client,
  member,
  patient,
  threads,
  worker,
};

try {
  await roles[role]!();
  process.exit(0);
} catch (error) {
  say(describe(error));
  process.exit(3);
}
