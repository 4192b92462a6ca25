/** Measures the parts of a request: head codec, library call, life of a slot, round trip. `bun bench/dev/micro.ts` */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bench, do_not_optimize, group, run } from "mitata";
import { Arena, encodeHead, HeadWriter, REQUEST_STRINGS } from "../../src/bus/codec.ts";
import { Head, HeadReader } from "../../src/bus/head.ts";
import { SlotBus, SlotWorker } from "../../src/index.ts";
import { C, cString, errorText, FIELDS, native, type Pointer, view } from "../../src/native/library.ts";

const HEAD_LIMIT = 4_096;
const BODY_BYTES = 64;
/** `struct sb_request`. */
const REQUEST_BYTES = 40;

const bare = ["/users/7", "", "", ""];
const tenHeaders = [
  ...bare,
  ...Array.from({ length: 10 }, (_, i) => [`x-header-${i}`, `the value number ${i}`]).flat(),
];

// ---- the codec ----------------------------------------------------------------------------------------------------------

function benchCodec(name: string, strings: readonly string[]): void {
  const arena = new Arena(new ArrayBuffer(HEAD_LIMIT));
  const encode = (): number => encodeHead(arena, strings, 0, REQUEST_STRINGS, HEAD_LIMIT, "request");
  const head = arena.bytes.slice(0, encode());
  const writer = new HeadWriter();
  const reader = new HeadReader(REQUEST_STRINGS);
  group(`head: ${name}`, () => {
    bench("encode", encode);
    writer.strings.push(...strings);
    bench("write again", () => writer.write(arena, 0, REQUEST_STRINGS, HEAD_LIMIT, "request"));
    bench("decode, all strings read", () => {
      const decoded = Head.decode(head, REQUEST_STRINGS);
      do_not_optimize(decoded.strings(0, decoded.count));
    });
    const others = ["a", "b"].map((last) => {
      const other = new Arena(new ArrayBuffer(HEAD_LIMIT));
      encodeHead(other, [...strings, "x-id", last], 0, REQUEST_STRINGS, HEAD_LIMIT, "request");
      return other;
    });
    let turn = 0;
    const size = encodeHead(arena, [...strings, "x-id", "c"], 0, REQUEST_STRINGS, HEAD_LIMIT, "request");
    const variants = new HeadReader(REQUEST_STRINGS);
    bench("read a variant, all headers read", () => do_not_optimize(variants.read(others[turn++ % 2]!, size).headers));
    encode();
    bench("read again", () => do_not_optimize(reader.read(arena, head.length)));
  });
}

// ---- the library, client and worker in one process ----------------------------------------------------------------------

interface Pair {
  client: Pointer;
  link: number;
  worker: Pointer;
  sessions: Pointer;
}

/** The handshake without its checks. */
async function attach(directory: string): Promise<Pair> {
  const name = "micro";
  const client = native.sb_client_open(4, 65_536, HEAD_LIMIT, 16_384, 0, 1) as Pointer;
  let link = -1;
  Bun.listen({
    unix: join(directory, `${name}.sock`),
    socket: {
      data: (socket) => {
        if (link >= 0)
          native.sb_link_start(client, link); // ATTACHED
        else link = native.sb_link_offer(client, (socket as unknown as { fd: number }).fd, 4); // JOIN
      },
    },
  }).unref();
  const dir = native.sb_dir_open(cString(directory), 0, 0);
  const worker = native.sb_worker_open(dir, cString(name), 4) as Pointer;
  const versions = new Uint32Array(2);
  let step = -C.SB_EAGAIN;
  for (let tries = 0; tries < 1000 && step === -C.SB_EAGAIN; tries++) {
    await Bun.sleep(1);
    step = native.sb_worker_step(worker, versions);
  }
  if (step !== 0) throw new Error(`the worker did not attach: ${errorText(step)}`);
  await Bun.sleep(10); // ATTACHED arrives
  const sessions = native.sb_sessions_open() as Pointer;
  native.sb_sessions_add(sessions, worker);
  return { client, link, worker, sessions };
}

/** Takes a slot from FREE to FREE without a body. Throws if a step fails. */
function cycle({ client, link, worker, sessions }: Pair, request: Uint32Array): void {
  const slot = native.sb_slot_reserve(client, link);
  native.sb_slot_publish(client, link, slot, 0, 8, 8, BODY_BYTES, 0, 1);
  if (native.sb_sessions_take(sessions, 0, 1) !== C.SB_SESSION_TAKEN) throw new Error("nothing to take");
  native.sb_slot_complete(worker, slot, request[FIELDS["sb_request.token"][0] / 4]!, 8, 8, BODY_BYTES, 200);
  if (native.sb_client_poll(client, 0) !== 1) throw new Error("no answer");
  if (native.sb_slot_release(client, link, slot) !== 0) throw new Error("the slot is not ours");
}

async function main(directory: string): Promise<void> {
  const pair = await attach(directory);
  const request = new Uint32Array(view(native.sb_worker_request(pair.worker) as number, REQUEST_BYTES));
  await using bus = await SlotBus.create({ name: "round-trip", directory });
  await using worker = await SlotWorker.open({ name: "round-trip", directory });
  worker.serve(({ body }) => body);
  await bus.ready();
  const body = new Uint8Array(BODY_BYTES);

  benchCodec("a path", bare);
  benchCodec("a path and ten headers", tenHeaders);
  group("library", () => {
    bench("one call", () => native.sb_slot_token(pair.client, pair.link, 0));
    bench("one slot: reserve, publish, take, complete, poll, release", () => cycle(pair, request));
  });
  group("bus, client and worker on one event loop", () => {
    bench("round trip of 64 B", async () => {
      await bus.request({ path: "/", body });
    });
  });
  await run();
}

const directory = mkdtempSync(join(tmpdir(), "slotbus-micro-"));
try {
  await main(directory);
} finally {
  rmSync(directory, { recursive: true, force: true });
}
process.exit(); // the pair stays attached
