/** The TCP port of a stdio bus, attacked by pages in Debian's Chromium. */

import { connect } from "node:net";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { StdioBus, type TcpOptions } from "../../src/stdio/index.ts";
import { type Checks, expect, needTool, root, until } from "./checks.ts";

const REFUSED =
  /^The connection to 127\.0\.0\.1:\d+ from 127\.0\.0\.1 was closed: the client sent \d+ bytes that are not JSON: /;
const SILENT = /was closed: the client did not send the token within 2000 ms\.$/;
const PAGE = "<!doctype html><title>page</title><iframe name=frame></iframe>";

/** Ways in which a page can send bytes to a port, as code of the page. `url` and `body` are strings there. */
const WAYS: Record<string, string> = {
  "a fetch without CORS": `void fetch(url, { method: "POST", mode: "no-cors", body }).catch(() => {})`,
  "a fetch of JSON": `void fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body }).catch(() => {})`,
  "a fetch of a path that is a message": `void fetch(url + "/" + encodeURIComponent(body), { mode: "no-cors" }).catch(() => {})`,
  "a beacon": `void navigator.sendBeacon(url, body)`,
  "a WebSocket": `void (new WebSocket(url.replace("http", "ws")).onopen = ({ target }) => target.send(body))`,
  "a form": `const form = document.createElement("form");
    Object.assign(form, { action: url, method: "POST", enctype: "text/plain", target: "frame" });
    const input = document.createElement("textarea");
    input.name = body;
    form.append(input);
    document.body.append(form);
    form.submit();`,
};

async function open(browser: Browser, address: string, isOurs: boolean): Promise<Page> {
  const page = await (await browser.newContext()).newPage();
  // A page of the bus's own origin. DNS rebinding makes such a page; here the browser fakes it.
  if (isOurs) await page.route(address, (route) => route.fulfill({ contentType: "text/html", body: PAGE }));
  await page.goto(address);
  return page;
}

/** Sends a message from a page in each way. Expects that the connection is closed with one log line and no worker gets a request. */
async function refuses(tcp: TcpOptions): Promise<void> {
  const told: string[] = [];
  const worker = join(root, "test/fixtures/stdio-worker.ts");
  await using bus = await StdioBus.start({
    pools: [{ id: "a", command: process.execPath, args: [worker], ready: true }],
  });
  bus.on("refused", (reason) => told.push(reason));
  bus.on("fault", ({ message }) => told.push(message));
  const { port, token } = await bus.serve({ tcp });
  const auth = { jsonrpc: "2.0", id: 0, method: "$/auth", params: { token: token ?? "none" } };
  const ask = { jsonrpc: "2.0", id: 1, method: "pid" };
  // The page knows the token, too.
  const lines = `\n${JSON.stringify(auth)}\n${JSON.stringify(ask)}\n`;

  const pages = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: () => new Response(PAGE, { headers: { "content-type": "text/html" } }),
  });
  // Chromium keeps some of this from addresses of this machine by itself; other browsers do not.
  const checks = ["LocalNetworkAccessChecks", "LocalNetworkAccessChecksWebSockets"];
  const args = ["--host-resolver-rules=MAP *.example 127.0.0.1", `--disable-features=${checks.join()}`];
  if (process.geteuid?.() === 0) args.push("--no-sandbox");
  const browser = await chromium.launch({ executablePath: needTool("chromium"), args });
  try {
    const origins: [what: string, origin: string, isOurs: boolean][] = [
      ["its own origin", `http://127.0.0.1:${port}`, true],
      ["its own origin by a name that resolves here", `http://bus.example:${port}`, true],
      ["another origin of this machine", `http://127.0.0.1:${pages.port}`, false],
      ["another site", `http://evil.example:${pages.port}`, false],
    ];
    for (const [from, origin, isOurs] of origins) {
      const target = isOurs ? origin : `http://127.0.0.1:${port}`;
      for (const [way, code] of Object.entries(WAYS)) {
        const page = await open(browser, `${origin}/page`, isOurs);
        const what = `${way} from a page of ${from}`;
        told.length = 0;
        await page.evaluate(
          `{ const url = ${JSON.stringify(target)}; const body = ${JSON.stringify(lines)}; ${code} }`,
        );
        await until(
          () => told.some((line) => REFUSED.test(line)) || bus.stats().messagesIn > 0,
          `${what} has an outcome`,
        );
        expect(bus.stats().messagesIn === 0, `${what} reached a worker`);
        // Chromium also opens connections in advance and sends nothing on them.
        for (const line of told) expect(REFUSED.test(line) || SILENT.test(line), `${what}: the log says ${line}`);
        await page.context().close();
      }
    }
  } finally {
    await browser.close();
    await pages.stop(true);
  }

  let answers = "";
  const socket = connect(port, "127.0.0.1", () => socket.write(lines));
  socket.on("data", (data) => (answers += data));
  await until(() => answers.split("\n").length === 3, "a program that sends the same lines gets answers");
  socket.destroy();
  expect(bus.stats().messagesIn === 1, "exactly one request of the program has reached the worker");
}

export const checks: Checks = {
  "Chromium reaches no worker of a stdio bus through its tcp port, from a page of any origin, even with the token":
    () => refuses({ port: 0 }),
  "Chromium reaches no worker of a stdio bus through a tcp port without a token": () =>
    refuses({ port: 0, token: false }),
};
