/** Hono and Elysia under plain `Bun.serve` and mounted in a worker behind a hub: the same requests, the same answers. */

import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FetchHandler } from "../src/index.ts";
import { elysiaApp } from "./differential/elysia-app.ts";
import { honoApp } from "./differential/hono-app.ts";
import { type Asked, elysiaRequests, honoRequests } from "./differential/requests.ts";
import { Stage } from "./hub-stage.ts";

const FILES = join(import.meta.dir, "differential/files");

interface Answer {
  readonly status: number;
  /** Name in lower case, and value; sorted, because Bun keeps no order between names. */
  readonly headers: readonly [name: string, value: string][];
  readonly body: string;
}

/** Random values. */
const BOUNDARY = /----WebKitFormBoundary[0-9a-f]{32}/g;

/** Sends a request unchanged, and reads the answer until the server closes. */
function send(port: number, { method, path, headers, body }: Asked): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const lines = Object.entries({ host: "app.test", ...headers, connection: "close" }).map(
    ([name, value]) => `${name}: ${value}`,
  );
  const chunks: Buffer[] = [];
  const socket = connect(port, "127.0.0.1", () =>
    socket.write(`${method} ${path} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n${body}`),
  );
  socket.on("data", (chunk) => chunks.push(chunk as Buffer));
  socket.on("error", reject);
  socket.on("close", () => resolve(parse(Buffer.concat(chunks).toString("latin1").replace(BOUNDARY, "boundary"))));
  return promise;
}

function parse(text: string): Answer {
  const end = text.indexOf("\r\n\r\n");
  const [first = "", ...lines] = text.slice(0, end).split("\r\n");
  const headers = lines.map((line): [string, string] => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  const isChunked = headers.some(([name, value]) => name === "transfer-encoding" && value === "chunked");
  const body = text.slice(end + 4);
  return { status: Number(first.split(" ")[1]), headers: headers.toSorted(), body: isChunked ? unchunk(body) : body };
}

function unchunk(text: string): string {
  let body = "";
  for (let at = 0; at < text.length;) {
    const line = text.indexOf("\r\n", at);
    const length = parseInt(text.slice(at, line), 16);
    body += text.slice(line + 2, line + 2 + length);
    at = line + 4 + length;
  }
  return body;
}

/** Headers that depend on the moment or the connection. */
const OF_THE_WAY = new Set(["date", "x-request-id", "connection"]);

interface Rule {
  readonly why: string;
  /** Plain Bun's answer, changed to what the hub must answer. */
  expected(plain: Answer, hub: Answer, asked: Asked): Answer;
}

/** Differences that stay; docs/hub.md has the same list. */
const RULES: readonly Rule[] = [
  {
    why: "HEAD: a length that nobody knows is left out (Bun: 0)",
    expected: (plain, hub, { method }) =>
      method === "HEAD" && valueOf(plain, "content-length") === "0" && valueOf(hub, "transfer-encoding") === "chunked"
        ? adding(without(plain, "content-length"), "transfer-encoding", "chunked")
        : plain,
  },
  {
    why: "HEAD: the content-type that GET has (Bun: only one that the app gives)",
    expected: (plain, hub, { method }) =>
      method === "HEAD" && valueOf(plain, "content-type") === undefined
        ? adding(plain, "content-type", valueOf(hub, "content-type"))
        : plain,
  },
  {
    why: "untyped bytes that are UTF-8 are text/plain (Bun: application/octet-stream)",
    expected: (plain, _hub, { path }) =>
      path === "/bytes" ? adding(without(plain, "content-type"), "content-type", "text/plain;charset=utf-8") : plain,
  },
  {
    why: "headers of the connection are the hub's",
    expected: (plain) => without(plain, "keep-alive"),
  },
  {
    why: "a stream that ends at once has a content-length (Bun: chunked)",
    expected: (plain, hub, { method }) => {
      const length = valueOf(hub, "content-length");
      if (method !== "GET" || length !== String(hub.body.length)) return plain;
      const sized = adding(without(plain, "transfer-encoding"), "content-length", length);
      const isUntyped = valueOf(plain, "content-type") === undefined && length !== "0";
      return isUntyped ? adding(sized, "content-type", "application/octet-stream") : sized;
    },
  },
  {
    why: "a file above 256 KiB has no content-length: it is chunked",
    expected: (plain, _hub, { path }) =>
      path === "/file/big" ? adding(without(plain, "content-length"), "transfer-encoding", "chunked") : plain,
  },
  {
    why: "type of request.blob(): that of the request (Bun: text/plain)",
    expected: (plain, { body, headers }, { path }) => (path === "/body/length" ? { ...plain, body, headers } : plain),
  },
];

const valueOf = ({ headers }: Answer, name: string): string | undefined => headers.find(([one]) => one === name)?.[1];
const adding = (answer: Answer, name: string, value = ""): Answer => ({
  ...answer,
  headers: [...without(answer, name).headers, [name, value] satisfies [string, string]].toSorted(),
});

const without = (answer: Answer, ...names: string[]): Answer => ({
  ...answer,
  headers: answer.headers.filter(([name]) => !names.includes(name)),
});

interface Difference {
  readonly asked: Asked;
  readonly plain: Answer;
  readonly hub: Answer;
}

async function compare(make: () => FetchHandler & { server?: unknown }, requests: readonly Asked[]): Promise<void> {
  await using stage = await Stage.open();
  await using _worker = await stage.serve({ "/*": make() });
  const app = make();
  const plain = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request, server) => app.fetch(request, server) });
  if ("server" in app) app.server = plain;
  const byRule = new Map<string, number>();
  const left: Difference[] = [];
  let identical = 0;
  try {
    for (const asked of requests) {
      const both = await Promise.all([send(plain.port!, asked), send(Number(stage.hub.url!.port), asked)]);
      let [one, other] = both.map((answer) => without(answer, ...OF_THE_WAY)) as [Answer, Answer];
      if (Bun.deepEquals(one, other)) {
        identical++;
        continue;
      }
      const used: string[] = [];
      for (const { why, expected } of RULES) {
        const before = one;
        one = expected(one, other, asked);
        if (!Bun.deepEquals(before, one)) used.push(why);
        if (Bun.deepEquals(one, other)) break;
      }
      if (!Bun.deepEquals(one, other)) left.push({ asked, plain: both[0]!, hub: both[1]! });
      else for (const why of used) byRule.set(why, (byRule.get(why) ?? 0) + 1);
    }
  } finally {
    await plain.stop(true);
  }
  console.log(`${requests.length} requests, ${identical} identical; by rule:`, Object.fromEntries(byRule));
  expect(left.map(shown)).toEqual([]);
}

function shown({ asked, plain, hub }: Difference): string {
  const short = (answer: Answer): string => JSON.stringify({ ...answer, body: answer.body.slice(0, 100) });
  return `${asked.method} ${asked.path} ${JSON.stringify(asked.headers)}\n  plain ${short(plain)}\n  hub   ${short(hub)}`;
}

test("a Hono app", async () => {
  const directory = mkdtempSync(join(tmpdir(), "differential-"));
  try {
    const big = join(directory, "big.txt");
    await Bun.write(big, "0123456789".repeat(40_000));
    await compare(() => honoApp(FILES, big), honoRequests);
  } finally {
    rmSync(directory, { recursive: true });
  }
}, 60_000);
test("an Elysia app", () => compare(() => elysiaApp(FILES), elysiaRequests), 60_000);
