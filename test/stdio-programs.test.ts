/** Foreign programs as workers: a language server and a tool server. Both need `initialize` as their first message. */

import { expect, test } from "bun:test";
import { RpcError, WorkerDiedError } from "../src/errors.ts";
import type { WorkerNotification } from "../src/stdio/events.ts";
import { StdioBus } from "../src/stdio/bus.ts";
import type { StdioPoolOptions } from "../src/stdio/options.ts";
import { isAlive } from "./stdio-stage.ts";
import { rejection, until } from "./support.ts";

function program(path: string, ...args: string[]): Pick<StdioPoolOptions, "command" | "args" | "restart"> {
  const restart = { backoff: { initial: 1, max: 10 } };
  return { command: process.execPath, args: [Bun.resolveSync(path, import.meta.dir), ...args], restart };
}

/** Kills a worker and waits until it is gone and all workers take requests again. */
async function killed(bus: StdioBus, pid: number): Promise<void> {
  const { length } = bus.workers;
  process.kill(pid, "SIGKILL");
  const isBack = (): boolean => bus.workers.length === length && bus.stats().workers.every((it) => it.pid !== pid);
  await until(isBack, "the next life");
  expect(isAlive(pid)).toBe(false);
}

test("a language server completes, reports, requests a schema, and after a kill has the open documents again", async () => {
  const uri = "memory:/settings.json";
  const text = '{"$schema":"memory:/schema.json","speed":"fast","":0}';
  const documents = new Map([[uri, text]]);
  const reports: WorkerNotification[] = [];
  const lives: number[] = [];
  await using bus = await StdioBus.start({
    pools: [
      {
        id: "json",
        ...program("vscode-json-languageserver/bin/vscode-json-languageserver", "--stdio"),
        protocol: "lsp",
        async initialize(server) {
          lives.push(server.pid);
          const { capabilities } = await server.request<{ capabilities: { hoverProvider: boolean } }>("initialize", {
            processId: process.pid,
            rootUri: null,
            capabilities: { textDocument: { completion: { completionItem: { snippetSupport: true } } } },
            initializationOptions: { handledSchemaProtocols: ["file"] },
          });
          expect(capabilities.hoverProvider).toBe(true);
          await server.notify("initialized", {});
          for (const [uri, text] of documents) {
            const textDocument = { uri, languageId: "json", version: 1, text };
            await server.notify("textDocument/didOpen", { textDocument });
          }
        },
      },
    ],
  });
  const asked: unknown[] = [];
  bus.onRequest("vscode/content", (params, { pid }) => {
    asked.push([pid, params]);
    return JSON.stringify({ properties: { speed: { type: "number" }, größe: { type: "string" } } });
  });
  const reading = (async () => {
    for await (const report of bus.subscribe({ method: "textDocument/publishDiagnostics" })) reports.push(report);
  })();
  const complete = async (): Promise<string[]> => {
    const position = { line: 0, character: text.indexOf('""') + 1 };
    const found = await bus.request<{ items: { label: string }[] }>(
      "textDocument/completion",
      { textDocument: { uri }, position },
      { idempotent: true },
    );
    return found.items.map(({ label }) => label);
  };
  const isReported = (pid: number): boolean =>
    reports.some(({ pid: from, params }) => from === pid && JSON.stringify(params).includes('Expected \\"number\\"'));

  expect(await complete()).toEqual(["größe"]);
  const [first] = lives;
  await until(() => isReported(first!), "its report of the wrong type");
  expect(
    await bus.request("textDocument/hover", { textDocument: { uri }, position: { line: 0, character: 0 } }),
  ).toMatchObject({ range: { end: { character: text.length } } });
  expect((await rejection<RpcError>(bus.request("no/such/method"))).rpcCode).toBe(-32_601);

  const lost = rejection<WorkerDiedError>(bus.request("textDocument/completion", { textDocument: { uri } }));
  process.kill(first!, "SIGSTOP"); // so that it does not answer before it is killed
  const again = complete();
  await killed(bus, first!);
  expect(lives.length).toBe(2);
  expect((await lost).report).toMatchObject({ pid: first, signal: "SIGKILL" });
  expect(await again).toEqual(["größe"]);
  const [, second] = lives;
  expect(second).not.toBe(first);
  await until(() => isReported(second!), "the report of its next life");
  expect(asked).toEqual([first, second].map((pid) => [pid, ["memory:/schema.json"]]));
  expect(bus.stats()).toMatchObject({ workerRestarts: 1, protocolErrors: 0, inFlight: 0 });
  await bus.close();
  await reading;
}, 30_000);

test("a tool server lists, calls, sends requests and reports its progress, before a kill and after it", async () => {
  type Answer = { content: { text: string }[] };
  const told: WorkerNotification[] = [];
  await using bus = await StdioBus.start({
    pools: [
      {
        id: "tools",
        ...program("@modelcontextprotocol/server-everything/dist/index.js"),
        instances: 2,
        async initialize(server) {
          await server.request("initialize", {
            protocolVersion: "2025-06-18",
            capabilities: { sampling: {}, roots: {} },
            clientInfo: { name: "test", version: "1" },
          });
          await server.notify("notifications/initialized");
        },
      },
    ],
  });
  bus.onRequest("sampling/createMessage", (params, { pid }) => {
    const [message] = (params as { messages: { content: { text: string } }[] }).messages;
    return {
      role: "assistant",
      model: "none",
      content: { type: "text", text: `${pid} heard ${message!.content.text}` },
    };
  });
  const roots = new Set<number>();
  bus.onRequest("roots/list", (_, { pid }) => {
    roots.add(pid);
    return { roots: [{ uri: "file:///srv", name: "served" }] };
  });
  const reading = (async () => {
    for await (const notification of bus.subscribe()) told.push(notification);
  })();
  const call = async (
    name: string,
    given: object,
    options: { key?: string; idempotent?: boolean } = {},
  ): Promise<string> => {
    const params = { name, arguments: given, _meta: { progressToken: options.key } };
    return (await bus.request<Answer>("tools/call", params, options)).content[0]!.text;
  };
  const pids = (): number[] => bus.stats().workers.map(({ pid }) => pid);
  const long = { duration: 0.2, steps: 4 };

  const useAll = async (): Promise<void> => {
    const { tools } = await bus.request<{ tools: { name: string }[] }>("tools/list", {});
    expect(tools.map(({ name }) => name)).toContain("trigger-sampling-request"); // it has it only after `initialize`
    const keys = Array.from({ length: 20 }, (_, i) => `user ${i}`);
    const sums = await Promise.all(keys.map((key, i) => call("get-sum", { a: i, b: 1_000 }, { key })));
    expect(sums).toEqual(keys.map((_, i) => `The sum of ${i} and 1000 is ${1_000 + i}.`));
    const samples = await Promise.all(
      keys.map((key) => call("trigger-sampling-request", { prompt: `ä${key}` }, { key })),
    );
    const heard = samples.map((text, i) => {
      expect(text).toContain(`ä${keys[i]!}`);
      return Number(/(\d+) heard/.exec(text)![1]);
    });
    expect(new Set(heard)).toEqual(new Set(pids())); // both sent requests, and each was answered by its own host
    const from = told.length;
    expect(await call("trigger-long-running-operation", long, { key: "tick" })).toContain("completed");
    const steps = told.slice(from).filter(({ method }) => method === "notifications/progress");
    expect(steps.map(({ params }) => params)).toEqual(
      [1, 2, 3, 4].map((progress) => ({ progress, total: 4, progressToken: "tick" })),
    );
  };

  const before = pids();
  await useAll();
  const unknown = await bus.request<Answer & { isError: boolean }>("tools/call", { name: "nothing" });
  expect(unknown.isError).toBe(true);
  expect(await rejection(bus.request("nothing"))).toBeInstanceOf(RpcError);
  await until(() => before.every((pid) => roots.has(pid)), "both have asked for the roots");

  const kept = call("trigger-long-running-operation", { duration: 1, steps: 1 }, { idempotent: true });
  await until(() => bus.stats().inFlight === 1, "the first call is under way");
  const [has] = bus.stats().workers.filter(({ inFlight }) => inFlight === 1);
  const lost = rejection<WorkerDiedError>(call("trigger-long-running-operation", { duration: 60, steps: 1 }));
  await until(() => bus.stats().workers.every(({ inFlight }) => inFlight === 1), "each has one");
  await killed(bus, has!.pid);
  expect(await kept).toContain("completed");
  const [other] = before.filter((pid) => pid !== has!.pid);
  await killed(bus, other!);
  expect((await lost).report).toMatchObject({ pid: other, signal: "SIGKILL" });
  expect(pids().filter((pid) => before.includes(pid))).toEqual([]);
  await useAll();
  await until(() => pids().every((pid) => roots.has(pid)), "the new ones have asked too");
  expect(bus.stats()).toMatchObject({ workerRestarts: 2, protocolErrors: 0, inFlight: 0, waiting: 0 });
  const reports = await bus.close();
  expect(reports.map(({ how }) => how)).toEqual(["end of input", "end of input"]);
  await reading;
}, 30_000);
