/** The other process of a contestant: `bun peer.ts ROLE ADDRESS` returns every body until its parent ends. */

import { FrameReader, FrameWriter } from "./frames.ts";
import type { Introduction } from "./systems.ts";

const [role, address = ""] = process.argv.slice(2);

function introduce(chosen = ""): void {
  process.send!({ pid: process.pid, isMainThread: Bun.isMainThread, address: chosen } satisfies Introduction);
}

/** Answers {@link Peer.ask}. */
function answerQuestions(wakeups: () => number): void {
  process.on("message", (question) => {
    const { user, system } = process.cpuUsage();
    process.send!(question === "cpu" ? (user + system) / 1000 : wakeups());
  });
}

async function echo(request: Request): Promise<Response> {
  return new Response(await request.bytes());
}

process.on("disconnect", () => process.exit());

switch (role) {
  case "slotbus": {
    const { SlotWorker } = await import("../src/index.ts");
    const { headersHandler } = await import("./checks.ts");
    const worker = await SlotWorker.open({ name: address });
    worker.serve(headersHandler());
    answerQuestions(() => worker.wakeups);
    introduce();
    break;
  }
  case "slotbus-socket": {
    const { SlotWorker, socket } = await import("../src/index.ts");
    const { headersHandler } = await import("./checks.ts");
    const worker = await SlotWorker.open({ name: address, via: socket() });
    worker.serve(headersHandler());
    introduce();
    break;
  }
  case "fetch-tcp": {
    const server = Bun.serve({ fetch: echo, hostname: "127.0.0.1", port: 0 });
    introduce(`${server.hostname}:${server.port}`);
    break;
  }
  case "fetch-unix":
    Bun.serve({ fetch: echo, unix: address });
    introduce();
    break;
  case "bun-ipc":
    process.on("message", (message) => process.send!(message));
    introduce();
    break;
  case "unix-socket":
    Bun.listen<{ reader: FrameReader; writer: FrameWriter }>({
      unix: address,
      socket: {
        open: (socket) => {
          const writer = new FrameWriter(socket);
          socket.data = { writer, reader: new FrameReader((id, body) => writer.write(id, body)) };
        },
        data: (socket, bytes) => socket.data.reader.push(bytes),
        drain: (socket) => socket.data.writer.flush(),
      },
    });
    introduce();
    break;
  case "idle-client": {
    const { SlotBus } = await import("../src/index.ts");
    const bus = await SlotBus.create({ name: address });
    answerQuestions(() => bus.stats().wakeups);
    introduce();
    for (let i = 0; i < 1000; i++) await bus.request({ path: "/echo", body: "warm" });
    break;
  }
  case "bare":
    answerQuestions(() => 0);
    introduce();
    break;
  default:
    throw new Error(`unknown role "${role}"`);
}
