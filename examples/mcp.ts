// A Model Context Protocol server as workers of a bus that several programs share. `bun examples/mcp.ts`
// It needs `bun add @modelcontextprotocol/server-everything`.
import { connect } from "node:net";
import { StdioBus } from "slotbus/stdio";

const program = Bun.resolveSync("@modelcontextprotocol/server-everything/dist/index.js", import.meta.dir);
await using bus = await StdioBus.start({
  pools: [{ id: "tools", command: process.execPath, args: [program], protocol: "mcp", instances: 2 }],
});

const long = (duration: number): object => ({
  name: "trigger-long-running-operation",
  arguments: { duration, steps: 2 },
});
const onProgress = (piece: unknown): void => console.log("progress", piece);
await bus.request("tools/call", long(0.2), { onProgress }); // onProgress gets the `notifications/progress` of this call
await bus.request("tools/call", long(60), { timeout: 100 }).catch(({ message }) => console.log(message)); // cancels it

await using server = await bus.serve({ unix: `/tmp/mcp-${process.pid}.sock` }); // for clients in any language
const client = connect(server.path!);
const params = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "example", version: "1" } };
client.write(`${JSON.stringify({ jsonrpc: "2.0", id: 0, method: "initialize", params })}\n`);
const answer: Buffer = await new Promise((resolve) => client.once("data", resolve));
console.log("a client greets", JSON.parse(`${answer}`).result.serverInfo.name);
client.end();
