/**
 * A hub or a hub worker for browser.ts: `bun site.ts hub DIRECTORY ORIGIN`, `bun site.ts worker DIRECTORY NAME`. A worker waits
 * for a line before it connects. Both end with their standard input. The hub's token is "token-of-the-site".
 */

import { Hub, type HubRoutes, HubWorker, sse } from "../../src/hub/index.ts";

const [what, directory, name] = process.argv.slice(2);
const say = (text: string): void => void process.stdout.write(`${text}\n`);
const orders = (console as AsyncIterable<string>)[Symbol.asyncIterator]();

const adminToken = "token-of-the-site";

async function hub(): Promise<void> {
  const options = { name: "site", directory: directory!, port: 0, slots: 24, goneFor: 300, adminToken };
  const made = await Hub.start({ ...options, cors: { origins: [name!] } });
  say(`listens ${made.url!.port}`);
  while (!(await orders.next()).done);
  await made.close({ timeout: 0 });
}

/** Path segments that a page must show as text. */
const HOSTILE = ["%3Cimg%20src=x%20onerror=alert(1)%3E", "&lt;img&gt;'onclick='alert(1)", "‹b›"];

async function worker(): Promise<void> {
  const routes: Record<string, HubRoutes[string]> = {
    [`/${name}/page`]: { GET: () => ({ body: "<!doctype html><title>own page</title>", contentType: "text/html" }) },
    [`/${name}/work/:ms`]: {
      GET: async ({ params }) => {
        await Bun.sleep(Number(params["ms"]));
        return { json: { by: process.pid } };
      },
    },
    [`/${name}/fails`]: { GET: () => ({ status: 500, json: { error: "it fails" } }) },
    [`/${name}/feed/:room`]: sse(),
  };
  for (const text of HOSTILE) routes[`/${name}/${text}`] = { GET: () => ({ json: {} }) };
  say("ready");
  await orders.next();
  const reconnect = { initial: 20, max: 100 };
  const own = await HubWorker.start({ hub: "site", name: name!, directory: directory!, reconnect, routes });
  own.on("connected", () => say("connected"));
  say("connected");
  while (!(await orders.next()).done);
  await own.close();
}

await (what === "hub" ? hub() : worker());
process.exit();
