/**
 * What a program of several tests tells the program above it (`ci.ts`): one JSON line per outcome, in the file that a variable
 * names. And how both run what is below them.
 */

import { appendFileSync } from "node:fs";

export interface Outcome {
  name: string;
  /** `recorded`: proved before with the same inputs, so it was not run. */
  verdict: "passed" | "failed" | "recorded";
  /** Of a failure: what failed. Of what is recorded: date and figures. */
  lines?: string[];
  /** How many it stands for. Default 1. */
  count?: number;
}

/** Variable of the environment that names the file. */
export const OUTCOMES = "SLOTBUS_TEST_OUTCOMES";

/** Appends the outcome to the file, if there is one. */
export function tell(outcome: Outcome): void {
  const file = process.env[OUTCOMES];
  if (file) appendFileSync(file, `${JSON.stringify(outcome)}\n`);
}

/** Reads what {@link tell} wrote. */
export function readOutcomes(text: string): Outcome[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Outcome);
}

/** Longest time that output may still come after a command has ended, in ms. */
const REST_MS = 3_000;

/**
 * Runs a command and forwards its output. Resolves to the exit code, what it wrote to stdout, and all that it wrote. A process
 * that the command left may keep this process alive: end with `process.exit`.
 */
export async function forward(
  command: string[],
  env: Record<string, string> = {},
): Promise<{ code: number; stdout: string; output: string }> {
  const child = Bun.spawn(command, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let output = "";
  const read = async (stream: ReadableStream<Uint8Array>, to: NodeJS.WriteStream): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      to.write(chunk);
      const text = decoder.decode(chunk, { stream: true });
      output += text;
      if (to === process.stdout) stdout += text;
    }
  };
  const reading = Promise.all([read(child.stdout, process.stdout), read(child.stderr, process.stderr)]);
  const code = await child.exited;
  const isWhole = await Promise.race([reading.then(() => true), Bun.sleep(REST_MS).then(() => false)]);
  if (!isWhole)
    process.stderr.write(`${command.join(" ")} has ended, but a process that it left still holds its output\n`);
  return { code, stdout, output };
}

/** Lines with a text, without colours. */
export function linesOf(text: string): string[] {
  return Bun.stripANSI(text)
    .split("\n")
    .map((line) => line.trimEnd())
    .filter((line) => line !== "");
}
