/**
 * Shared by `steps.ts` and `fleet-steps.ts`: builds a single-stepping C program together with the library's sources, runs it
 * once per processor, and adds up the figures from its output.
 *
 *     bun test/prove/NAME.ts [ci | quick | long] [--seed N] [--operation NAME [--fault NAME [--step N]]]
 *
 * With a stride of N, every Nth instruction is tested; the seed chooses the first. Operations that the program marks as
 * sampled have the longest stride. `--sources DIRECTORY` tests another copy of csrc/. `--sample` tests one step in twenty of the
 * size.
 */

import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { figuresLine, Histogram, type Size, sizeAsked } from "./figures.ts";
import { SHARE } from "./proved.ts";

export interface Stepping<State extends string, Fault extends string> {
  /** Name of the program, without `.ts`. */
  name: string;
  /** Its C sources. */
  files: string[];
  /** Stride of sampled operations. The stride of other operations is a sixteenth of it, at least 1. */
  stride: Record<Size, number>;
  /** Rows of the histogram. Every cell must occur, except the cells listed as impossible. */
  states: readonly State[];
  faults: readonly Fault[];
  impossible?: ReadonlySet<`${State} ${Fault}`>;
}

interface Operation {
  side: string;
  /** Count of each process. Counts differ by a few if the clock was read again. */
  instructions: number[];
  acts: number;
  stride: number;
  kills: number;
  pauses: number;
  seconds: number;
}

const root = join(import.meta.dir, "../..");
const ownSources = join(root, "csrc");
const SECONDS = { ci: 600, quick: 1800, long: 3600 };
const { values } = parseArgs({
  options: {
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    operation: { type: "string" },
    fault: { type: "string" },
    step: { type: "string" },
    sources: { type: "string", default: ownSources },
    sample: { type: "boolean", default: false },
  },
  allowPositionals: true,
});

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const children = new Set<Bun.Subprocess>();

/** The C files of a folder. */
export function cFiles(directory: string): string[] {
  return readdirSync(directory)
    .filter((file) => file.endsWith(".c") && file !== "os_macos.c")
    .map((file) => join(directory, file));
}

async function run(command: string[], seconds: number): Promise<{ code: number | null; output: string }> {
  const timeout = seconds * 1000;
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout, killSignal: "SIGKILL" });
  children.add(child);
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  children.delete(child);
  return { code: child.signalCode ? null : child.exitCode, output: out + err };
}

/** Links statically if the system can, because lazy linking would add thousands of instructions. */
async function build(folder: string, own: string[]): Promise<string> {
  const program = join(folder, "steps");
  const flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-w", "-pthread", "-fno-strict-aliasing", "-no-pie"];
  const include = [`-I${values.sources}`, `-I${root}/test/prove/steps`];
  const sources = [...cFiles(values.sources), ...own];
  let output = "";
  for (const linkage of ["-static", "-Wl,-z,now"]) {
    const built = await run(["gcc", ...flags, linkage, ...include, "-o", program, ...sources], 120);
    if (built.code === 0) return program;
    output = built.output;
  }
  throw new Error(`gcc fails:\n${output}`);
}

function table(operations: Map<string, Operation>): string {
  const rows = [["operation", "side", "instructions", "kills", "pauses", "seconds"]];
  for (const [name, { side, instructions, stride, kills, pauses, seconds }] of operations) {
    const count = `${Math.max(...instructions)}${stride > 1 ? ` (1 in ${stride})` : ""}`;
    rows.push([name, side, count, String(kills), String(pauses), seconds.toFixed(1)]);
  }
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)) + 2);
  return rows
    .map((row) => row.map((text, i) => (i > 1 ? text.padStart(widths[i]!) : text.padEnd(widths[i]!))).join(""))
    .join("\n");
}

/** Runs the proof and ends the process, with 1 when a promise was broken. */
export async function stepThrough<State extends string, Fault extends string>(
  stepping: Stepping<State, Fault>,
): Promise<never> {
  const { name: proof, states, faults } = stepping;
  if (process.arch !== "x64" || process.platform !== "linux")
    throw new Error(`${proof}: single-stepping is written for Linux on x64.`);
  if (!Bun.which("gcc")) throw new Error(`${proof}: gcc is not installed (Debian: apt-get install gcc).`);
  const size = sizeAsked();
  const operations = new Map<string, Operation>();
  /** Operations that were not chosen. */
  const skipped = new Set<string>();
  const histogram = new Histogram(states, faults, stepping.impossible);
  const sums = { requests: 0, kills: 0, stalls: 0, lost: 0, doubled: 0, misdelivered: 0, leaked: 0 };
  let elsewhere = 0;
  let problems = 0;
  let steps = 0;
  let strays = 0;

  function problem(text: string): void {
    problems++;
    say(text);
  }

  function replay(operation: string, fault: string, step: string): string {
    const chosen = step === "-" ? "" : ` --fault ${fault} --step ${step}`;
    const sources = values.sources === ownSources ? "" : ` --sources ${values.sources}`;
    return `bun test/prove/${proof}.ts ${size} --seed ${values.seed} --operation ${operation}${chosen}${sources}`;
  }

  function readLine(line: string): boolean {
    const [word, ...cells] = line.split("|");
    const number = (index: number): number => Number(cells[index]);
    if (word === "operation") {
      const fresh: Operation = {
        side: cells[1]!,
        instructions: [],
        acts: 0,
        stride: 1,
        kills: 0,
        pauses: 0,
        seconds: 0,
      };
      const operation = operations.get(cells[0]!) ?? fresh;
      operations.set(cells[0]!, operation);
      operation.instructions.push(number(2));
      operation.acts = number(3);
      operation.stride = number(4);
      operation.kills += number(5);
      operation.pauses += number(6);
      operation.seconds = Math.max(operation.seconds, number(7));
    } else if (word === "state") {
      const isState = states.some((state) => state === cells[0]);
      if (isState) histogram.add(cells[0] as State, cells[1] as Fault, number(2));
      else elsewhere += number(2);
    } else if (word === "skipped") {
      skipped.add(cells[0]!);
    } else if (word === "failure") {
      const [operation, fault, step, ...text] = cells;
      problem(`FAIL ${operation}, ${fault}, step ${step}: ${text.join("|")}`);
      say(`     ${replay(operation!, fault!, step!)}`);
    } else if (word === "figures") {
      sums.requests += number(0);
      sums.kills += number(1);
      sums.stalls += number(2);
      sums.lost += number(3);
      sums.doubled += number(4);
      sums.misdelivered += number(5);
      sums.leaked += number(6);
      steps += number(8);
      strays += number(9);
      return true;
    }
    return false;
  }

  // In memory if possible: operations on a name are four times as fast there.
  const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), `slotbus-${proof}-`));
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      for (const child of children) child.kill("SIGKILL");
      rmSync(folder, { recursive: true, force: true });
      process.exit(1);
    });
  }

  async function runPart(program: string, part: number, parts: number): Promise<void> {
    const directory = join(folder, `part-${part}`);
    mkdirSync(directory, { mode: 0o700 });
    const usual = stepping.stride[size] * (values.sample ? Math.round(1 / SHARE) : 1);
    const stride = values.step === undefined ? usual : 1;
    const chosen = [values.operation, values.fault, values.step].filter((word) => word !== undefined);
    const numbers = [values.seed, part, parts, stride].map(String);
    const { code, output } = await run([program, directory, ...numbers, ...chosen], SECONDS[size]);
    const whole = output.split("\n").filter((line) => readLine(line)).length === 1;
    if (!whole) problem(`FAIL part ${part} ended early (${code ?? "killed"}):\n${output.slice(-2000)}`);
    const left = readdirSync(directory);
    if (left.length > 0) problem(`FAIL part ${part} left ${left.join(", ")}`);
  }

  /** Checks that every instruction had its faults, and that every cell of the histogram occurred. */
  function checkCoverage(): void {
    for (const [name, { instructions, acts, stride, kills, pauses }] of operations) {
      const expected = stride === 1 ? Math.min(...instructions) + 1 : Math.floor(Math.min(...instructions) / stride);
      if (kills < expected) problem(`FAIL ${name}: ${kills} kills at ${expected} steps`);
      if (pauses < acts * expected) problem(`FAIL ${name}: ${pauses} pauses, ${acts} at each of ${expected} steps`);
    }
    if (histogram.empty.length > 0 && !values.sample) problem(`FAIL never occurred: ${histogram.empty.join(", ")}`);
  }

  const began = performance.now();
  say(`seed ${values.seed}: bun test/prove/${proof}.ts ${size} --seed ${values.seed}`);
  try {
    const program = await build(folder, stepping.files);
    const parts = values.step === undefined ? Math.min(2, availableParallelism()) : 1;
    await Promise.all(Array.from({ length: parts }, (_, part) => runPart(program, part, parts)));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  if (values.operation !== undefined && operations.size === 0 && problems === 0) {
    say(`There is no operation "${values.operation}". Choose one of: ${[...skipped].join(", ")}.`);
    process.exit(1);
  }
  if (sums.kills + sums.stalls === 0) problem("FAIL nothing was run: check the names of the fault and the step");
  if (values.operation === undefined) checkCoverage();
  say(table(operations));
  say(histogram.toString());
  say(
    `${operations.size} operations, ${steps} single steps, ${strays} faults on a shorter path, ${elsewhere} in other states, ` +
      `${((performance.now() - began) / 1000).toFixed(1)} s, ${problems} problems`,
  );
  say(figuresLine(sums));
  process.exit(problems === 0 ? 0 : 1);
}
