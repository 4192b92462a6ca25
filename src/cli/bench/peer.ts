/** The other process of a contestant: `bun peer.ts SYSTEM ADDRESS` answers every body with itself. */

import type { SystemName } from "./systems.ts";
import { FrameReader, FrameWriter } from "./frames.ts";

const [system, address = ""] = process.argv.slice(2) as [SystemName | "bare" | "idle-hub", string];
const send = (message: unknown): void => void process.send!(message);

switch (system) {
  case "slotbus": {
    const { SlotWorker } = await import("../../index.ts");
    const { headersHandler } = await import("./checks.ts");
    const worker = await SlotWorker.open({ name: address });
    worker.serve(headersHandler());
    process.on("message", () => send(worker.wakeups));
    send("ready");
    break;
  }
  case "fetch-tcp":
  case "fetch-unix": {
    const echo = async (request: Request): Promise<Response> => new Response(await request.bytes());
    const options = { fetch: echo, maxRequestBodySize: 2 ** 30 };
    const server =
      system === "fetch-tcp"
        ? Bun.serve({ ...options, hostname: "127.0.0.1", port: 0 })
        : Bun.serve({ ...options, unix: address });
    send(system === "fetch-tcp" ? server.port : "ready");
    break;
  }
  case "bun-ipc":
    process.on("message", send);
    send("ready");
    break;
  case "unix-socket":
    Bun.listen<{ reader: FrameReader; writer: FrameWriter }>({
      unix: address,
      socket: {
        open: (socket) => {
          const writer = new FrameWriter();
          socket.data = { writer, reader: new FrameReader((id, body) => writer.write(socket, id, body)) };
        },
        data: (socket, bytes) => socket.data.reader.push(bytes),
        drain: (socket) => socket.data.writer.flush(socket),
      },
    });
    send("ready");
    break;
  case "idle-hub": {
    const { SlotBus } = await import("../../index.ts");
    const bus = await SlotBus.create({ name: address });
    const worker = Bun.spawn([process.execPath, import.meta.path, "slotbus", address], { ipc: () => {} });
    process.on("exit", () => worker.kill());
    process.on("SIGTERM", () => process.exit());
    await bus.ready();
    for (let i = 0; i < 1000; i++) await bus.request({ path: "/echo", body: "warm" });
    process.on("message", () => {});
    send(worker.pid);
    break;
  }
  case "bare":
    process.on("message", () => {});
    send("ready");
    break;
  default:
    throw new Error(`peer.ts does not know ${String(system)}`);
}
