/** Language servers: framing, cancellation and progress of the Language Server Protocol. */

import { expect, test } from "bun:test";
import { connect } from "node:net";
import { join } from "node:path";
import { RpcError } from "../src/errors.ts";
import type { StdioBus } from "../src/stdio/bus.ts";
import { fixture, folder, running } from "./stdio-stage.ts";
import { rejection, until } from "./wait.ts";

const log: string[] = [];

const started = (): Promise<StdioBus> =>
  running(
    {
      pools: [
        fixture("lsp-worker.ts", {
          protocol: "lsp",
          async initialize(server) {
            await server.request("initialize", { processId: process.pid, rootUri: null, capabilities: {} });
            await server.notify("initialized", {});
          },
        }),
      ],
    },
    { log: (_, line) => log.push(line) },
  );

const at = (line: number, more: object = {}): object => ({
  textDocument: { uri: "memory:/a" },
  position: { line, character: 0 },
  context: { includeDeclaration: true },
  ...more,
});
const location = { uri: "memory:/a", range: { start: { line: 0, character: 0 }, end: { line: 0, character: 1 } } };
const steps = [{ kind: "begin", title: "looking", percentage: 0 }, { kind: "report" }, { kind: "end" }];

test("onProgress gets progress of a language server; partial results come only to callers that request them", async () => {
  await using bus = await started();
  const seen: unknown[] = [];
  const onProgress = (piece: unknown): void => void seen.push(piece);
  expect(await bus.request("textDocument/references", at(0), { onProgress })).toEqual([location]);
  expect(seen).toMatchObject(steps);
  seen.length = 0;
  const parts = at(0, { workDoneToken: "mine", partialResultToken: 5 });
  expect(await bus.request("textDocument/references", parts, { onProgress })).toEqual([]);
  expect(seen).toMatchObject([steps[0], steps[1], [location], steps[2]] as object[]);
  expect(bus.stats()).toMatchObject({ late: 0, protocolErrors: 0 });
});

test("an abort stops the work of a language server; an error that reports the cancel settles the request", async () => {
  await using bus = await started();
  const controller = new AbortController();
  const onProgress = (): void => controller.abort();
  const given = bus.request("textDocument/references", at(1), { onProgress, signal: controller.signal });
  expect((await rejection(given)).name).toBe("AbortError");
  await until(() => log.includes("stopped"), "it stopped");
  const modified = await rejection<RpcError>(bus.request("textDocument/hover", at(0)));
  expect([modified, modified.rpcCode]).toEqual([expect.any(RpcError), -32_801]);
  await until(() => bus.stats().late > 0, "the answer to what was given up");
  expect(bus.stats()).toMatchObject({ inFlight: 0, protocolErrors: 0 });
});

test("a client of a socket gets progress under its token; a client that asks only for partial results gets the whole answer", async () => {
  using directory = folder();
  await using bus = await started();
  const { path } = await bus.serve({ unix: join(directory.path, "lsp.sock") });
  const socket = connect(path!);
  let came = "";
  socket.on("data", (data) => (came += data.toString()));
  const ask = async (id: number, tokens: object): Promise<unknown[]> => {
    came = "";
    const method = "textDocument/references";
    socket.write(`${JSON.stringify({ jsonrpc: "2.0", id, method, params: at(0, tokens) })}\n`);
    await until(() => came.includes(`"id":${id}`) && came.endsWith("\n"), "the answer");
    return came
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
  };
  const answer = (id: number): object => ({ jsonrpc: "2.0", id, result: [location] });
  expect(await ask(1, { partialResultToken: 7 })).toEqual([answer(1)]);
  const told = steps.map((value) => ({ method: "$/progress", params: { token: 8, value } }));
  expect(await ask(2, { workDoneToken: 8, partialResultToken: 7 })).toMatchObject([...told, answer(2)] as object[]);
  socket.destroy();
});
