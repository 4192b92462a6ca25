/** The BullMQ recipe with Debian's Redis. */

import { join } from "node:path";
import { Recipes, shownOf } from "../recipes.ts";
import { type Checks, expect, needTool, until } from "./checks.ts";

/** Longest wait for a state, in ms: other checks may use the processors. */
const PATIENCE_MS = 60_000;

async function isolates(): Promise<void> {
  const redis = needTool("redis-server");
  using recipes = new Recipes();
  await using all = new AsyncDisposableStack();
  using probe = Bun.serve({ port: 0, fetch: () => new Response() });
  const port = String(probe.port);
  await probe.stop(true);
  const settings = ["--bind 127.0.0.1", `--port ${port}`, '--save ""', `--dir ${join(recipes.folder, "run")}`];
  const server = all.use(recipes.start([redis, ...settings].join(" ")));
  await until(() => server.lines.some((line) => line.includes("Ready to accept")), "Redis is ready", PATIENCE_MS);

  const env = { REDIS_PORT: port };
  const worker = all.use(recipes.start("bun jobs-worker.ts", env));
  await worker.line("takes jobs", PATIENCE_MS);
  const adder = all.use(recipes.start("bun jobs-add.ts", env));
  expect((await adder.process.exited) === 0, `jobs-add.ts failed:\n${adder.errors.join("\n")}`);
  const printed = `${adder.lines.join("\n")}\n`;
  expect(printed === shownOf("jobs-add.ts"), `jobs-add.ts printed:\n${printed}`);
  const failures = worker.lines.filter((line) => line.includes("failed"));
  const wanted = ["fragile failed: WorkerDiedError", ...Array(2).fill("endless failed: RequestTimeoutError")];
  expect(Bun.deepEquals(failures, wanted), `jobs-worker.ts printed:\n${worker.lines.join("\n")}`);

  worker.process.kill("SIGTERM");
  expect((await worker.process.exited) === 0, `jobs-worker.ts did not end in order:\n${worker.errors.join("\n")}`);
}

export const checks: Checks = {
  "jobs of BullMQ run in processes: a crash and an endless loop cost one attempt of one job": isolates,
};
