/**
 * The targets of test/native/fuzz under clang's libFuzzer with AddressSanitizer: everything in csrc that reads what a peer
 * has sent or stored. Each starts from its corpus, inputs in base64, one a line. `SLOTBUS_FUZZ_SECONDS` sets the time of a target (default: 4), and
 * `SLOTBUS_FUZZ_CORPUS` a folder that keeps what it finds.
 */

import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Checks, expect, needTool, note, path, Place, root, run } from "./checks.ts";

const TARGETS = ["handshake", "worker", "client", "serve", "file", "ring", "lease"];
const SECONDS = Number(process.env["SLOTBUS_FUZZ_SECONDS"] ?? 4);
/** Time in which a planted defect must be found. The corpus leads to each of them. */
const SECONDS_TO_FIND = 60;
const LANES = 2;
/** Greatest length of an input, in bytes. */
const LENGTH = 400;

const sources = join(root, "test/native/fuzz");

const FLAGS =
  "-std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -DSB_ASSERT -O1 -g -pthread -fno-strict-aliasing -fno-omit-frame-pointer " +
  "-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all";

async function build(csrc: string, place: Place): Promise<string> {
  const program = join(place.folder, "fuzz");
  const files = [csrc, sources].flatMap((folder) => readdirSync(folder).map((file) => join(folder, file)));
  const inputs = files.filter((file) => file.endsWith(".c") && !file.endsWith("os_macos.c"));
  const folders = [`-I${csrc}`, `-I${root}/test/native`];
  await run([needTool("clang"), ...FLAGS.split(" "), ...folders, "-o", program, ...inputs]);
  return program;
}

/** Runs a target from its corpus until it finds something or the time is over. */
async function fuzz(program: string, target: string, seconds: number, folder: string) {
  const kept = join(process.env["SLOTBUS_FUZZ_CORPUS"] ?? folder, target);
  mkdirSync(kept, { recursive: true });
  const lines = readFileSync(join(sources, "corpus", `${target}.txt`), "utf8")
    .trim()
    .split("\n");
  for (const [n, line] of lines.entries()) writeFileSync(join(kept, `corpus-${n}`), Buffer.from(line, "base64"));
  const limits = [`-max_total_time=${seconds}`, `-max_len=${LENGTH}`, "-timeout=10", "-rss_limit_mb=2048"];
  const child = Bun.spawn([program, ...limits, `-artifact_prefix=${folder}/${target}-`, kept], {
    env: { ...process.env, PATH: path, SLOTBUS_FUZZ: target },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const [output, code] = await Promise.all([child.stderr.text(), child.exited]);
  return { code, output, inputs: lines.length };
}

async function inLanes(work: (target: string) => Promise<void>): Promise<void> {
  const waiting = TARGETS.slice();
  const lane = async (): Promise<void> => {
    for (let target = waiting.shift(); target; target = waiting.shift()) await work(target);
  };
  await Promise.all(Array.from({ length: LANES }, lane));
}

/** Returns an input that broke a promise, as text that a developer can put into the corpus. */
function inputOf(folder: string, target: string): string {
  const file = readdirSync(folder).find((name) => name.startsWith(`${target}-`));
  return file ? `input in base64: ${readFileSync(join(folder, file)).toString("base64")}` : "no input was saved";
}

async function promisesAreKept(): Promise<void> {
  using place = new Place();
  const program = await build(join(root, "csrc"), place);
  await inLanes(async (target) => {
    const { code, output, inputs } = await fuzz(program, target, SECONDS, place.folder);
    const end = output.split("\n").slice(-60).join("\n");
    expect(code === 0, `${target} ended with ${code}; ${inputOf(place.folder, target)}\n${end}`);
    const [, runs = "0"] = /^Done (\d+) runs/m.exec(output) ?? [];
    const [, reached = "0", features = "0"] = /.* cov: (\d+) ft: (\d+)/s.exec(output) ?? [];
    note(`${target.padEnd(9)} ${runs} inputs, ${reached} edges, ${features} features`);
    expect(Number(runs) > 2 * inputs, `${target} ran only ${runs} inputs, ${inputs} of them from the corpus`);
  });
}

/** A check that the library makes of a peer's bytes, and how to leave it out. */
const PLANTED: Record<string, [file: string, check: string, without: string]> = {
  handshake: [
    "region.c",
    "if (!header_is_legal(&header) || header.region_bytes != bytes)",
    "if (!header_is_legal(&header))",
  ],
  worker: [
    "slot_worker.c",
    "if (!lengths_are_legal(&worker->map.header, r->head_bytes, r->body_offset, r->body_bytes))",
    "if (r->method > 99)",
  ],
  client: [
    "slot_client.c",
    `!status_is_legal(event->status_code) ||
\t    !lengths_are_legal(&client->header, event->head_bytes, event->body_offset,
\t                       event->body_bytes)) {`,
    "!status_is_legal(event->status_code)) {",
  ],
  serve: ["serve.c", "count % 2 != 0 || 2 * parameters > count - CALL_STRINGS", "count % 2 != 0"],
  file: ["fleet_file.c", "return memcmp(&made, h, sizeof made) == 0;", "return made.magic == h->magic;"],
  ring: ["fleet.c", "if (ring == 0 || ring > fleet->header.rings) continue;", "if (ring == 0) continue;"],
  lease: ["lease.c", "out->token != 0 && out->kind_bytes <= SB_KIND_MAX &&", "out->token != 0 &&"],
};

async function plantedDefectsAreFound(): Promise<void> {
  using place = new Place();
  const csrc = join(place.folder, "csrc");
  cpSync(join(root, "csrc"), csrc, { recursive: true });
  for (const [file, check, without] of Object.values(PLANTED)) {
    const text = readFileSync(join(csrc, file), "utf8");
    expect(text.split(check).length === 2, `${file} does not have exactly once: ${check}`);
    writeFileSync(join(csrc, file), text.replace(check, without));
  }
  const program = await build(csrc, place);
  await inLanes(async (target) => {
    const start = performance.now();
    const { code, output } = await fuzz(program, target, SECONDS_TO_FIND, place.folder);
    const report = /broken: .*|ERROR: AddressSanitizer: \S+|runtime error: .*|deadly signal/.exec(output)?.[0];
    expect(code !== 0 && report !== undefined, `${target}: without "${PLANTED[target]![1]}" nothing was found`);
    note(`${target.padEnd(9)} ${report} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
  });
}

export const checks: Checks = {
  "the library keeps its promises to a hostile peer under libFuzzer": promisesAreKept,
  "libFuzzer finds a check of a peer's bytes that is left out": plantedDefectsAreFound,
};
