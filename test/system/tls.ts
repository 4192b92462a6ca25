/** `hub.fetch` inside a server with TLS, as a user runs it without a proxy. */

import { readFileSync } from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import { connect } from "node:tls";
import { service } from "./bus.ts";
import { chunksOf, hasher, hashOf } from "./bytes.ts";
import { type Checks, expect, needTool, note, Place, Program, run } from "./checks.ts";

/** More than Bun's own limit of a request body, 128 MiB. */
const LARGE = 140_000_000;

/** Makes the files `key` and `certificate` for localhost. Returns the certificate. */
async function certify(folder: string): Promise<string> {
  const [key, certificate] = [join(folder, "key"), join(folder, "certificate")];
  const who = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  await run([needTool("openssl"), "req", "-x509", "-days", "1", ...curve, ...who, "-keyout", key, "-out", certificate]);
  return readFileSync(certificate, "latin1");
}

/** Resolves to status and body of a GET with one version of TLS, with node's own client. */
function getWith(version: "TLSv1.2" | "TLSv1.3", url: string, ca: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const asked = request(url, { ca, minVersion: version, maxVersion: version }, async (response) => {
    let text = "";
    for await (const part of response) text += part;
    resolve(`${response.statusCode} ${text}`);
  });
  asked.on("error", reject);
  asked.end();
  return promise;
}

async function tls(): Promise<void> {
  using place = new Place();
  const ca = await certify(place.folder);
  const options = JSON.stringify({ payloadBytes: 2 * LARGE });
  await using hub = new Program(service("hub", place.directory, options, place.folder));
  const [, port] = (await hub.expectLine("ready")).split(" ");
  await using worker = new Program(service("hub-worker", place.directory));
  await worker.expectLine("ready");
  const origin = `https://localhost:${port}`;
  const get = (path: string, init: RequestInit = {}) => fetch(`${origin}${path}`, { ...init, tls: { ca } });

  for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
    const seen = await getWith(version, `${origin}/origin`, ca);
    expect(seen === `200 https localhost:${port}`, `over ${version} the worker sees: ${seen}`);
  }
  const url = await (await get("/url/page")).text();
  expect(url === `${origin}/page`, `an app sees the address ${url}`);

  // A client that does not trust the certificate, and one that does not speak TLS, reach no worker.
  const stranger = await fetch(`${origin}/origin`).then(
    ({ status }) => String(status),
    (error: { code: string }) => error.code,
  );
  expect(/CERT/.test(stranger), `a client without the certificate gets ${stranger}`);
  const plain = await fetch(`http://localhost:${port}/origin`).then(
    ({ status }) => status,
    () => 0,
  );
  expect(plain === 0 || plain === 400, `a client without TLS gets ${plain}`);

  const sent = hasher();
  const upload = async function* () {
    yield* chunksOf(LARGE, sent);
  };
  const hashed = await (await get("/hash", { method: "POST", body: upload() })).text();
  expect(hashed === `${sent.digest("hex")} ${LARGE}`, `an upload over TLS: ${hashed}`);
  const expected = hasher();
  for (const _ of chunksOf(LARGE, expected));
  const got = await hashOf((await get(`/bytes/${LARGE}`)).body!);
  expect(got === `${expected.digest("hex")} ${LARGE}`, `a download over TLS: ${got}`);

  // An event reaches its client at once, though the connection stays open.
  const feed = await get("/feed");
  const events = feed.body!.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
  await worker.order("push hello");
  for (let text = ""; !text.includes("data: hello\n");) {
    const { value, done } = await events.next();
    expect(!done, `the event stream ended after: ${text}`);
    text += value;
  }
  await events.return?.();

  // A client that breaks the connection off aborts the handler.
  const socket = connect({ port: Number(port), host: "localhost", ca }, () => {
    socket.write("GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n");
  });
  await worker.lineFrom("waiting");
  socket.destroy();
  await worker.lineFrom("aborted");

  // A body whose worker dies is not taken for complete.
  const cut = await get(`/bytes/${LARGE}`);
  const reader = cut.body!.getReader();
  await reader.read();
  worker.kill("SIGKILL");
  let read = 0;
  const ending = await (async () => {
    for (let part = await reader.read(); !part.done; part = await reader.read()) read += part.value.length;
    return "complete";
  })().catch((error: { code?: string; name: string }) => error.code ?? error.name);
  expect(ending !== "complete", `a body that broke off after ${read} of ${LARGE} bytes ended as if it were complete`);
  note(`a cut body ends with ${ending}; without trust: ${stranger}; without TLS: ${plain || "the connection ends"}`);
}

export const checks: Checks = {
  "hub.fetch in a server with TLS: scheme, bodies above 128 MiB, events, aborts and broken bodies are as without TLS":
    tls,
};
