/**
 * The processes that the system tests watch, by role. Each says a line when it got somewhere, and
 * takes commands by standard input: `go N` (N requests, one after another), `quit`.
 *
 *     bun program.ts bare DIRECTORY
 *     bun program.ts hub DIRECTORY [uid,... [INLINE_SIZE]]
 *     bun program.ts worker DIRECTORY
 */

import type { SlotBus, SlotbusError, SlotWorker } from "../../src/index.ts";

const name = "system";
const [role = "", directory = "", uids = "", inline = "16384"] = process.argv.slice(2);

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Carries out what standard input says, until `quit` or its end. */
async function obey(go: (requests: number) => Promise<void>): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of Bun.stdin.stream()) {
    const lines = (rest + decoder.decode(chunk)).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "quit") return;
      await go(Number(line.replace("go ", "")));
      say(`done ${line}`);
    }
  }
}

async function hub(): Promise<void> {
  const { SlotBus: Bus } = await import("../../src/index.ts");
  const allowedUids = uids === "" ? [] : uids.split(",").map(Number);
  const bus: SlotBus = await Bus.create({ name, directory, allowedUids, inlineSize: Number(inline) });
  bus.on("peerRefused", (peer, reason) => say(`refused uid ${peer.uid}: ${reason}`));
  say("listening");
  const joined = bus.ready().then(() => say(`joined uid ${bus.workers[0]?.uid}`));
  await obey(async (requests) => {
    await joined;
    for (let n = 0; n < requests; n++) {
      const response = await bus.request({ path: "/echo", body: `request ${n}` });
      if (response.text() !== `request ${n}`) throw new Error(`wrong answer: ${response.text()}`);
    }
  });
  joined.catch(() => {}); // the bus closes before a worker came
  await bus.close();
}

async function worker(): Promise<void> {
  const { SlotWorker: Worker } = await import("../../src/index.ts");
  const attached: SlotWorker = await Worker.open({ name, directory, reconnect: false, wait: 1_000 });
  attached.serve((request) => request.text());
  say("attached");
  await obey(async () => {});
  await attached.close();
}

/** A Bun program with one unix socket and nothing of ours: Bun itself wakes once a second for it. */
async function bare(): Promise<void> {
  const unix = `${directory}/bare.sock`;
  const socket = { open() {}, data() {}, close() {} };
  Bun.listen({ unix, socket });
  await Bun.connect({ unix, socket });
  say("waiting");
  await obey(async (rounds) => {
    for (let n = 0; n < rounds; n++) await new Promise((done) => setImmediate(done));
  });
}

const roles: Record<string, () => Promise<void>> = { bare, hub, worker };

try {
  await roles[role]!();
  process.exit(0);
} catch (error) {
  say(`error ${(error as SlotbusError).name}: ${(error as Error).message}`);
  process.exit(3);
}
