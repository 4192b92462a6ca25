/**
 * Feeds a hostile peer's bytes (mutated handshakes, control messages and regions) to the C library under AddressSanitizer and
 * UndefinedBehaviorSanitizer (`malformed/*.c`), and to the decoders in TypeScript (`malformed/heads.ts`).
 *
 *     bun test/prove/malformed.ts [ci | quick | long] [--seed N]
 *     bun test/prove/malformed.ts --seed N --replay PART:INPUT+1     that input only
 *     bun test/prove/malformed.ts --rules                            switches off one check at a time: each must be missed
 *
 * `ci` runs two million inputs, `quick` six, `long` a hundred. Each input is one life that starts from a valid state. Each
 * size ends with `--rules`.
 */

import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { figuresLine, Histogram, sizeAsked } from "./figures.ts";
import { removeRules } from "./malformed/rules.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    replay: { type: "string" },
    rules: { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const root = join(import.meta.dir, "../..");
const size = sizeAsked();
const seed = Number(values.seed);
const times = { ci: 1, quick: 3, long: 50 }[size];
/** Inputs of each of the two processes. */
const SHARE = { join: 100_000, refused: 100_000, hello: 150_000, client: 400_000, worker: 250_000 };
const HEADS = 200_000;
const PROCESSES = 2;
const MINUTES = { ci: 10, quick: 30, long: 300 }[size];

const OUTCOMES = ["ACCEPTED", "CORRUPT", "REFUSED", "ENDED", "IGNORED"] as const;
type Outcome = (typeof OUTCOMES)[number];

/**
 * Possible outcomes of a mutation of each field, by first letter; any other outcome is a broken promise. For the handshake:
 * the worker's result. For a region: what happened during the input (REFUSED: a step failed; ENDED: a step gave a request up;
 * IGNORED: neither CORRUPT nor REFUSED).
 */
const POSSIBLE: Record<string, [fields: string, outcomes: string][]> = {
  join: [
    ["abi_min abi_max role concurrency swapped byte", "AR"],
    ["magic cut extended garbage", "R"],
    ["reserved", "A"],
  ],
  refused: [
    ["abi_min abi_max error length cut byte", "AR"],
    ["magic type", "R"],
  ],
  hello: [
    [
      "hello_magic hello_abi hello_fingerprint message_type message_length message_cut message_joined message_long",
      "R",
    ],
    ["hello_epoch hello_region_bytes header_magic header_epoch header_region_bytes header_stride", "C"],
    ["header_arenas_offset header_abi header_fingerprint header_slots header_shifted", "C"],
    ["header_payload_limit header_head_limit header_inline_bytes header_swapped geometry", "AC"],
    ["header_flags header_bus_tag", "A"],
    ["memory_size descriptor_kind message_bytes", "CR"],
    ["seals", "ACR"],
    ["descriptors", "AR"],
  ],
  client: [
    ["state generation word head_bytes body_offset body_bytes status_code swapped_lengths anything", "ACREI"],
    ["claimed_ns done_hints done_hints_beyond ready_hints worker_parked worker_futex worker_cpu", "AEI"],
    ["flow_sent flow_taken flow_ended flow_error_bytes client_flow_line", "ACEI"],
    ["client_park_line counters header_page request_line padding flow_waiting arenas bells", "AEI"],
  ],
  worker: [
    ["state generation word head_bytes body_offset body_bytes swapped_lengths anything", "ACREI"],
    ["request_values ready_hints ready_hints_beyond done_hints client_parked client_futex client_cpu", "AREI"],
    ["flow_sent flow_taken flow_ended flow_error_bytes worker_flow_line", "ACREI"],
    ["worker_park_line counters response_line header_page padding flow_waiting arenas socket", "AREI"],
  ],
  heads: [
    ["parameters lengths text swapped_bytes head_cut garbage_head cancel_body join_body", "AR"],
    ["count head_extended", "R"],
    ["message_type message_length message_bytes stream_cut", "AI"],
  ],
};

/** Mutations of each part, besides the mutations of plain values. */
const KINDS: Record<string, string> = {
  join: "SWAPPED CUT EXTENDED",
  refused: "CUT EXTENDED",
  hello: "SWAPPED CUT EXTENDED FOREIGN",
  client: "SWAPPED EXTENDED FOREIGN",
  worker: "SWAPPED EXTENDED FOREIGN",
};
const VALUES = "FLIP BOUNDARY LIMIT NEIGHBOUR COPIED SMALL RANDOM";

const folder = mkdtempSync(join(tmpdir(), "slotbus-malformed-"));
const children = new Set<Bun.Subprocess>();
const problems: string[] = [];
const breaches: Record<string, number> = { leaked: 0, lost: 0, doubled: 0, other: 0 };
const say = (text: string): void => void process.stdout.write(`${text}\n`);

function problem(text: string): void {
  problems.push(text);
  process.stderr.write(`malformed: ${text}\n`);
}

/** Runs a program to its end. Returns its output, and whether it succeeded. */
async function run(command: string[], minutes = 5): Promise<{ ok: boolean; output: string }> {
  const env = { ...process.env, ASAN_OPTIONS: "detect_leaks=1", UBSAN_OPTIONS: "print_stacktrace=1" };
  const child = Bun.spawn(command, {
    env,
    cwd: folder,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: minutes * 60_000,
    killSignal: "SIGKILL",
  });
  children.add(child);
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  children.delete(child);
  return { ok: child.exitCode === 0, output: err + out };
}

const flags = (
  "-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -O1 -g -pthread " +
  "-fno-strict-aliasing -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
).split(" ");

/** The library calls back at each basic block, so that the peer can act within its steps. */
const LIBRARY = ["-fsanitize-coverage=trace-pc"];

async function compile(source: string, object: string, more: readonly string[]): Promise<string> {
  const { ok, output } = await run(["gcc", ...flags, ...more, `-I${root}/csrc`, "-c", source, "-o", object]);
  if (!ok) throw new Error(`gcc fails on ${source}:\n${output}`);
  return object;
}

async function link(objects: Iterable<string>, program: string): Promise<string> {
  const { ok, output } = await run(["gcc", ...flags, "-o", program, ...objects]);
  if (!ok) throw new Error(output);
  return program;
}

/** Compiles everything: the objects by name of their source. */
async function build(): Promise<Map<string, string>> {
  const objects = new Map<string, string>();
  const sources = ["csrc", "test/prove/malformed"].flatMap((name) =>
    readdirSync(join(root, name))
      .filter((file) => file.endsWith(".c") && file !== "os_macos.c")
      .map((file) => ({ name: `${name}/${file}`, path: join(root, name, file), more: name === "csrc" ? LIBRARY : [] })),
  );
  const queue = sources.values();
  const compileAll = async (): Promise<void> => {
    for (const { name, path, more } of queue) {
      objects.set(name, await compile(path, join(folder, `${name.replaceAll("/", "-")}.o`), more));
    }
  };
  await Promise.all(Array.from({ length: PROCESSES }, compileAll));
  return objects;
}

// ---- what the processes say -------------------------------------------------------------------------------------------

const met = new Map<string, number>();
const kinds = new Map<string, number>();
const ran = new Map<string, { inputs: number; mutations: number; slowestUs: number }>();

function add(counts: Map<string, number>, key: string, count: number): void {
  counts.set(key, (counts.get(key) ?? 0) + count);
}

/** Adds up a process's books. Reports a failed process with its output and the command that runs its input again. */
function hear(output: string, ok: boolean, ofSeed: number): void {
  for (const line of output.split("\n")) {
    const [word, part = "", ...rest] = line.split(" ");
    if (word === "cell") add(met, `${part} ${rest[0]} ${rest[1]}`, Number(rest[2]));
    else if (word === "kind") add(kinds, `${part} ${rest[0]}`, Number(rest[1]));
    else if (word === "ran") {
      const sum = ran.get(part) ?? { inputs: 0, mutations: 0, slowestUs: 0 };
      const [inputs = 0, mutations = 0, slowestUs = 0] = rest.map(Number);
      sum.inputs += inputs;
      sum.mutations += mutations;
      sum.slowestUs = Math.max(sum.slowestUs, slowestUs);
      ran.set(part, sum);
    } else if (word === "breach") breaches[part]!++;
  }
  if (ok) return;
  const replay = /^replay (\S+)$/m.exec(output)?.[1];
  const text = output.replaceAll(/^(cell|kind|ran|reached|replay) .*\n/gm, "").trim();
  const again = replay ? `\nagain: bun test/prove/malformed.ts --seed ${ofSeed} --replay ${replay}` : "";
  problem(`a process with seed ${ofSeed} failed:\n${text.slice(0, 6000)}${again}`);
}

async function heads(from: number, inputs: number): Promise<void> {
  const script = join(import.meta.dir, "malformed/heads.ts");
  const { ok, output } = await run([process.execPath, script, String(seed), String(from), String(inputs)], MINUTES);
  const reached = output.match(/^reached heads \d+$/gm)?.at(-1) ?? "";
  hear(output, ok, seed);
  if (!ok && !output.includes("\nreplay ")) problem(`the decoders hung or died after: ${reached}`);
}

function judge(): void {
  for (const [part, rows] of Object.entries(POSSIBLE)) {
    const fields = rows.flatMap(([names]) => names.split(" "));
    const can = (field: string, outcome: Outcome): boolean =>
      rows.some(([names, letters]) => names.split(" ").includes(field) && letters.includes(outcome[0]!));
    const never = fields.flatMap((field) =>
      OUTCOMES.filter((outcome) => !can(field, outcome)).map((outcome) => `${field} ${outcome}` as const),
    );
    const table = new Histogram(fields, OUTCOMES, new Set(never));
    for (const [key, count] of met) {
      const [of, field = "", outcome = ""] = key.split(" ");
      if (of !== part || count === 0) continue;
      if (!fields.includes(field)) problem(`${part} has an unexpected field ${field}`);
      table.add(field, outcome as Outcome, count);
      if (!can(field, outcome as Outcome)) problem(`${part}: ${field} led to ${outcome} ${count} times`);
    }
    const { inputs = 0, mutations = 0, slowestUs = 0 } = ran.get(part) ?? {};
    say(
      `\n${part}: ${inputs} inputs, ${mutations} mutations, the slowest took ${(slowestUs / 1000).toFixed(1)} ms\n${table}`,
    );
    if (table.empty.length > 0) problem(`${part}: never occurred: ${table.empty.join(", ")}`);
    if (!(part in KINDS)) continue;
    const ways = `${VALUES} ${KINDS[part]}`.split(" ");
    say(ways.map((way) => `${way.toLowerCase()} ${kinds.get(`${part} ${way}`) ?? 0}`).join(", "));
    for (const way of ways) if (!kinds.get(`${part} ${way}`)) problem(`${part}: nothing was mutated by ${way}`);
  }
}

// ---- the run ----------------------------------------------------------------------------------------------------------

async function prove(): Promise<number> {
  say(`seed ${seed}: bun test/prove/malformed.ts ${size} --seed ${seed}`);
  const [objects] = await Promise.all([build(), heads(0, HEADS * times)]);
  const program = await link(objects.values(), join(folder, "malformed"));
  const shares = Object.entries(SHARE).map(([part, inputs]) => `${part}:${inputs * times}`);
  const runs = Array.from({ length: PROCESSES }, async (_, n) => {
    const { ok, output } = await run([program, String(seed + n), ...shares], MINUTES);
    hear(output, ok, seed + n);
  });
  await Promise.all(runs);
  judge();
  return rules(objects);
}

async function rules(objects: Map<string, string>): Promise<number> {
  const { missed, survived } = await removeRules(
    root,
    folder,
    objects,
    { compile: (from, to) => compile(from, to, [...LIBRARY, "-w"]), link, run },
    say,
  );
  for (const rule of survived) problem(`no input missed the rule: ${rule}`);
  return missed;
}

async function replay(what: string): Promise<void> {
  const [, part, input = "0", inputs = "1"] = /^(\w+):(\d+)\+(\d+)$/.exec(what) ?? [];
  if (part === "heads") return heads(Number(input), Number(inputs));
  const program = await link((await build()).values(), join(folder, "malformed"));
  const { ok, output } = await run([program, String(seed), what]);
  hear(output, ok, seed);
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    for (const child of children) child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
    process.exit(1);
  });
}
const began = performance.now();
let missedRules = 0;
try {
  if (values.replay) await replay(values.replay);
  else if (values.rules) missedRules = await rules(await build());
  else missedRules = await prove();
} catch (error) {
  problem(error instanceof Error ? error.message : String(error));
} finally {
  rmSync(folder, { recursive: true });
}
const mutations = [...ran.values()].reduce((sum, { inputs }) => sum + inputs, 0);
say(`\n${((performance.now() - began) / 1000).toFixed(1)} s, ${problems.length} problems`);
const { leaked, lost, doubled } = breaches;
say(figuresLine({ mutations, ...(missedRules > 0 && { rules: missedRules }), lost, doubled, leaked }));
process.exit(problems.length === 0 ? 0 : 1);
