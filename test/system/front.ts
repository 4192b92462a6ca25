/** The configurations of nginx and Caddy in docs/hub-network.md, in front of a hub: TLS, HTTP/2, addresses, streams, limits. */

import { mkdirSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { Hub, HubWorker, limit, sse } from "../../src/hub/index.ts";
import { blocksOf } from "../docs-blocks.ts";
import { type Checks, expect, needTool, Place, run, until } from "./checks.ts";

/** Resolves to a port that is free now. */
function freePort(): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  const server = createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address() as { port: number };
    server.close(() => resolve(port));
  });
  return promise;
}

function configuration(language: string, places: Readonly<Record<string, string>>): string {
  const block = blocksOf("docs/hub-network.md").find((one) => one.language === language);
  let text = block?.code ?? "";
  for (const [from, to] of Object.entries(places)) {
    expect(text.includes(from), `the configuration for ${language} does not have ${from}`);
    text = text.replaceAll(from, to);
  }
  return text;
}

async function certify(folder: string): Promise<[certificate: string, key: string]> {
  const files: [string, string] = [join(folder, "certificate.pem"), join(folder, "key.pem")];
  const who = ["-subj", "/CN=site.example", "-addext", "subjectAltName=DNS:site.example"];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const out = ["-out", files[0], "-keyout", files[1]];
  await run([needTool("openssl"), "req", "-x509", "-days", "1", ...curve, ...who, ...out]);
  return files;
}

interface Front {
  readonly command: string[];
  readonly env?: Record<string, string>;
}

type MakeFront = (folder: string, port: number, hub: string, files: readonly [string, string]) => Front;

const nginx: MakeFront = (folder, port, hub, [certificate, key]) => {
  const site = configuration("nginx", {
    "listen 443": `listen 127.0.0.1:${port}`,
    "127.0.0.1:3200": hub,
    "/etc/site/certificate.pem": certificate,
    "/etc/site/key.pem": key,
  });
  const file = join(folder, "nginx.conf");
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (of) => `${of}_temp_path ${folder}/${of};`,
  );
  const user = process.geteuid?.() === 0 ? "user root;" : "";
  writeFileSync(
    file,
    `daemon off; ${user} pid ${folder}/pid; error_log ${folder}/errors; worker_processes 1;
     events {} http { access_log off; ${temporary.join(" ")}\n${site}\n}`,
  );
  return { command: [needTool("nginx"), "-c", file, "-p", folder] };
};

const caddy: MakeFront = (folder, port, hub, [certificate, key]) => {
  const site = configuration("caddy", {
    "site.example": `https://site.example:${port}`,
    "127.0.0.1:3200": hub,
    "/etc/site/certificate.pem": certificate,
    "/etc/site/key.pem": key,
  });
  const file = join(folder, "Caddyfile");
  writeFileSync(file, `{\n  admin off\n  auto_https off\n}\n${site}`);
  const home = join(folder, "home");
  mkdirSync(home);
  const command = [needTool("caddy"), "run", "--config", file, "--adapter", "caddyfile"];
  return { command, env: { HOME: home, XDG_DATA_HOME: home, XDG_CONFIG_HOME: home } };
};

/** Whether a process accepts connections on the port. */
function listens(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect(port, "127.0.0.1");
  socket.on("connect", () => resolve(true));
  socket.on("error", () => resolve(false));
  return promise.finally(() => socket.destroy());
}

async function inFront(make: MakeFront): Promise<void> {
  const curl = needTool("curl");
  using place = new Place();
  const { directory, folder } = place;
  await using hub = await Hub.start({
    port: 0,
    directory,
    trustProxy: ["127.0.0.1"],
    perClient: { concurrency: 5 },
    drainDelay: 60_000,
  });
  await using worker = await HubWorker.start({
    name: "w",
    directory,
    routes: {
      "/headers": ({ headers }) => ({ json: headers.entries() }),
      "/body": { POST: limit({ payloadBytes: 20 << 20 }, async (request) => `${(await request.bytes()).length}`) },
      "/feed": sse(),
    },
  });
  const files = await certify(folder);
  const port = await freePort();
  const front = make(folder, port, hub.url!.host, files);
  const env = { ...process.env, ...front.env };
  const child = Bun.spawn(front.command, { env, stdio: ["ignore", "ignore", "ignore"] });
  const origin = `https://site.example:${port}`;
  const flags = [curl, "-sS", "--http2", "--cacert", files[0], "--resolve", `site.example:${port}:127.0.0.1`];
  const get = (path: string, ...more: string[]) => run([...flags, ...more, `${origin}${path}`]);
  try {
    const deadline = performance.now() + 10_000;
    while (!(await listens(port))) {
      expect(performance.now() < deadline && child.exitCode === null, "the proxy does not listen");
      await Bun.sleep(20);
    }
    const lies = ["x-forwarded-for: 6.6.6.6", "x-forwarded-proto: http", "x-forwarded-host: evil.example"];
    const lines = JSON.parse(await get("/headers", ...lies.flatMap((line) => ["-H", line]))) as [string, string][];
    const sent = new Map(lines);
    const seen = ["for", "proto", "host"].map((name) => sent.get(`x-forwarded-${name}`)).join(" ");
    const host = make === nginx ? "site.example" : `site.example:${port}`; // nginx's $host has no port
    expect(seen === `127.0.0.1, 127.0.0.1 https ${host}`, `the worker sees ${seen}`);
    expect(/^[0-9a-f-]{32,36}$/.test(sent.get("x-request-id") ?? ""), "the proxy gives each request an id");
    const facts = await get("/headers", "-o", "/dev/null", "-w", "%{http_version} %{http_code}");
    expect(facts === "2 200", `HTTP/2 ends with ${facts}`);
    const status = async (path: string, ...more: string[]) =>
      get(path, "-o", "/dev/null", "-w", "%{http_code}", ...more);
    expect((await status("/_slotbus/")) === "403", "the status page is open");
    writeFileSync(join(folder, "body"), Buffer.alloc(15 << 20));
    const bytes = await get("/body", "--data-binary", `@${join(folder, "body")}`);
    expect(bytes === String(15 << 20), `the worker got ${bytes} bytes`);

    // Events arrive while the stream is open; five streams are the limit of this client.
    const streams = Array.from({ length: 5 }, () =>
      Bun.spawn([...flags, "-N", `${origin}/feed`], { stdio: ["ignore", "pipe", "ignore"] }),
    );
    try {
      await until(() => hub.clients === 5, "five event streams are open");
      await worker.emitter().ssePush("/feed", "news", "hello");
      for (const stream of streams) {
        let text = "";
        for await (const chunk of stream.stdout) {
          text += Buffer.from(chunk).toString();
          if (text.includes("data: hello\n")) break;
        }
        expect(text.includes("event: news\n"), `a stream has ${text}`);
      }
      expect((await status("/headers")) === "429", "a sixth request of the client is not refused");
    } finally {
      for (const stream of streams) stream.kill();
    }
    await until(() => hub.clients === 0, "the hub sees that the streams have ended");
    void hub.drain();
    expect((await status("/health")) === "503", "a hub that drains is healthy");
    expect((await status("/headers")) === "200", "a hub that drains refuses requests");
  } finally {
    child.kill("SIGTERM");
    await child.exited;
    await hub.close({ timeout: 0 });
  }
}

export const checks: Checks = {
  "nginx in front of a hub, as the docs configure it: TLS, HTTP/2, addresses, bodies, events, limits, drain": () =>
    inFront(nginx),
  "Caddy in front of a hub, as the docs configure it: TLS, HTTP/2, addresses, bodies, events, limits, drain": () =>
    inFront(caddy),
};
