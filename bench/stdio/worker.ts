/** The worker of a host in Bun: `bun worker.ts ROLE` responds to each request with its params until its host ends. */

import type { Params } from "./loop.ts";

interface Request {
  id: number;
  params: Params;
}

const PID_METHOD = "pid";

switch (process.argv[2]) {
  case "slotbus": {
    const { serve } = await import("../../src/serve.ts");
    serve({ echo: (params) => params, [PID_METHOD]: () => process.pid });
    break;
  }
  case "pipes": {
    const { readLines, Writer } = await import("./pipes.ts");
    const writer = new Writer(Bun.stdout.writer());
    writer.add({ pid: process.pid });
    await readLines<Request>(
      Bun.stdin.stream(),
      ({ id, params }) => writer.add({ jsonrpc: "2.0", id, result: params }),
      writer.flush,
    );
    break;
  }
  case "bun-ipc":
    process.on("disconnect", () => process.exit());
    process.on("message", ({ id, params }: Request) => process.send!({ jsonrpc: "2.0", id, result: params }));
    process.send!({ pid: process.pid });
    break;
  default:
    throw new Error(`unknown role "${process.argv[2]}"`);
}
