/** What the processes of the checks share: they print lines, and read commands from standard input, one per line. */

import type { SlotbusError } from "../../src/index.ts";

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function describe(error: unknown): string {
  const { name, code = name, message, retryable } = error as Partial<SlotbusError>;
  return `error ${code}: ${message}${retryable ? " [retryable]" : ""}`;
}

export type Command = (...words: string[]) => Promise<void> | void;

/**
 * Carries out commands until `quit` or the end of the input, and prints `done COMMAND` after each. Prints the error of a command
 * and continues.
 */
export async function obey(commands: Record<string, Command>): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of Bun.stdin.stream()) {
    const lines = (rest + decoder.decode(chunk)).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "quit") return;
      const [word = "", ...words] = line.split(" ");
      try {
        await commands[word]!(...words);
      } catch (error) {
        say(describe(error));
      }
      say(`done ${line}`);
    }
  }
}
