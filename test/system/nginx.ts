/** The status page of a hub behind Debian's nginx. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Hub, type HubOptions } from "../../src/hub/index.ts";
import { type Checks, expect, needTool, Place } from "./checks.ts";

const TOKEN = "a-token-of-the-check";
/** Directives with which nginx reveals that it is a proxy. */
const TELLS = {
  nothing: "",
  for: "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
  proto: "proxy_set_header X-Forwarded-Proto $scheme;",
  real: "proxy_set_header X-Real-IP $remote_addr;",
  host: "proxy_set_header Host shop.example;",
};

/** Starts nginx in front of a hub, with one socket per set of directives. Calls `use` with a function that returns the status there. */
async function behind(options: HubOptions, use: (status: (way: string) => Promise<number>) => Promise<void>) {
  const nginx = needTool("nginx");
  using place = new Place();
  await using hub = await Hub.start({ port: 0, directory: place.directory, ...options });
  const { folder } = place;
  const ways = { ...TELLS, denied: "" };
  const servers = Object.entries(ways).map(
    ([
      way,
      tells,
    ]) => `server { listen unix:${folder}/${way}; ${way === "denied" ? "location /_slotbus { deny all; }" : ""}
      location / { proxy_pass ${hub.url!.origin}; ${tells} } }`,
  );
  const file = join(folder, "nginx.conf");
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (of) => `${of}_temp_path ${folder}/${of};`,
  );
  writeFileSync(
    file,
    `daemon off; ${process.geteuid?.() === 0 ? "user root;" : ""} pid ${folder}/pid; error_log ${folder}/errors; worker_processes 1;
     events {} http { access_log off; ${temporary.join(" ")} ${servers.join("\n")} }`,
  );
  const child = Bun.spawn([nginx, "-c", file, "-p", folder], { stdio: ["ignore", "inherit", "inherit"] });
  const status = async (way: string): Promise<number> =>
    (await fetch("http://shop.example/_slotbus/health", { unix: join(folder, way) })).status;
  try {
    const deadline = performance.now() + 10_000;
    while ((await status("denied").catch(() => 0)) !== 403) {
      expect(performance.now() < deadline && child.exitCode === null, "nginx does not listen");
      await Bun.sleep(20);
    }
    await use(status);
  } finally {
    child.kill("SIGTERM");
    await child.exited;
  }
}

async function closes(): Promise<void> {
  const seen: string[] = [];
  for (const [name, options] of Object.entries({
    plain: {},
    token: { adminToken: TOKEN },
    trust: { trustProxy: true },
  }))
    await behind(options, async (status) => {
      for (const way of [...Object.keys(TELLS), "denied"]) seen.push(`${name} ${way} ${await status(way)}`);
    });
  // A proxy that sends no header of its own cannot be distinguished from a program on this machine.
  const wanted = [
    "plain nothing 200",
    "plain for 403",
    "plain proto 403",
    "plain real 403",
    "plain host 403",
    "plain denied 403",
    ...["nothing", "for", "proto", "real", "host"].map((way) => `token ${way} 401`).concat("token denied 403"),
    ...["nothing", "for", "proto", "real", "host", "denied"].map((way) => `trust ${way} 403`),
  ];
  expect(Bun.deepEquals(seen, wanted), `behind nginx: ${seen.join(", ")}`);
}

export const checks: Checks = {
  "the status page is closed behind nginx, except for a bare proxy_pass to a hub without token and trustProxy": closes,
};
