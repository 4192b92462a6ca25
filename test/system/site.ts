/**
 * A hub, or a worker of one, for a browser: `bun site.ts hub DIRECTORY`, `bun site.ts worker DIRECTORY NAME`. A worker waits
 * for a line before it runs. Both end with their standard input. The hub's token is "token-of-the-site".
 */

import { createHub, HandlerResponse, HubWorker } from "../../src/hub/index.ts";

const [what, directory, name] = process.argv.slice(2);
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const orders = (console as AsyncIterable<string>)[Symbol.asyncIterator]();

const adminToken = "token-of-the-site";

async function hub(): Promise<void> {
  const made = await createHub({ name: "site", directory: directory!, port: 0, slots: 24, goneFor: 300, adminToken });
  say(`listens ${made.url!.port}`);
  while (!(await orders.next()).done);
  await made.close({ timeout: 0 });
}

/** What a path can have of what a page must not believe. */
const HOSTILE = ["%3Cimg%20src=x%20onerror=alert(1)%3E", "&lt;img&gt;'onclick='alert(1)", "‹b›"];

async function worker(): Promise<void> {
  const own = new HubWorker({ hub: "site", name: name!, directory: directory!, backoff: { min: 20, max: 100 } });
  own.get(`/${name}/page`, () => HandlerResponse.bytes("<!doctype html><title>own page</title>", "text/html"));
  own.get(`/${name}/work/:ms`, async ({ params }) => {
    await Bun.sleep(Number(params["ms"]));
    return HandlerResponse.okJson({ by: process.pid });
  });
  own.get(`/${name}/fails`, () => HandlerResponse.error(500, "it fails"));
  for (const text of HOSTILE) own.get(`/${name}/${text}`, () => HandlerResponse.ok());
  own.sseRoute(`/${name}/feed/:room`);
  own.on("connected", () => say("connected"));
  say("ready");
  await orders.next();
  const running = own.run();
  while (!(await orders.next()).done);
  await own.stop();
  await running;
}

await (what === "hub" ? hub() : worker());
process.exit();
