/** Shared by all commands: how they are declared, how they fail, and their exit codes. */

import { readFileSync } from "node:fs";
import { Command, CommanderError, InvalidArgumentError } from "commander";
import { SlotbusError } from "../errors.ts";

/** Exit codes. Scripts may rely on them. */
export const EXIT = {
  done: 0,
  /** The command failed, or `doctor` found a fault. */
  failed: 1,
  /** Invalid usage. */
  usage: 2,
  /** There is no bus, fleet or lease with this name. */
  notFound: 3,
  /** It does not answer or is busy; the same command may succeed later. */
  noAnswer: 4,
} as const;

/** At the end of the help of `slotbus`. */
export const EXIT_HELP = `Exit codes: 0 done, 1 failed, 2 invalid usage, 3 no such bus, fleet or lease,
4 no answer, or busy.`;

/** A failure that is reported as one line, without a stack. */
export class CommandError extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.failed) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Invalid usage of a command. */
export class UsageError extends CommandError {
  constructor(message: string) {
    super(message, EXIT.usage);
  }
}

/** Returns a command that throws its errors and prints its help. */
export function newCommand(name: string, summary: string, examples: readonly string[] = []): Command {
  const shown = examples.length > 0 ? `\nExamples:\n${examples.map((one) => `  ${one}`).join("\n")}` : "";
  return new Command(name)
    .summary(summary)
    .description(`${summary[0]!.toUpperCase()}${summary.slice(1)}.`)
    .exitOverride()
    .configureOutput({ outputError: () => {}, writeErr: (text) => void process.stdout.write(text) })
    .configureHelp({ helpWidth: 80 })
    .enablePositionalOptions()
    .helpOption("-h, --help", "show this help")
    .helpCommand(false)
    .addHelpText("after", shown);
}

/** Adds `--json`, for commands that print a result. */
export function withJson(command: Command): Command {
  return command.option("--json", "print only JSON");
}

/** Adds `--directory`, for commands that read the runtime directory. */
export function withDirectory(command: Command): Command {
  return command.option("--directory <dir>", "runtime directory (default: $SLOTBUS_DIR, else /dev/shm/slotbus-UID)");
}

/** Flags of commands that read the runtime directory. */
export interface CommonFlags {
  json?: boolean;
  directory?: string;
}

/**
 * Returns the only name, for a command line without one. Throws `none` if there is no name, and a usage error for
 * several.
 */
export function onlyOne(names: readonly string[], what: string, none: string, how = "Name one."): string {
  if (names.length === 1) return names[0]!;
  if (names.length === 0) throw new CommandError(none, EXIT.notFound);
  throw new UsageError(`${what}: ${names.join(", ")}. ${how}`);
}

/** A command whose module is loaded when the command is used. */
export interface Lazy {
  readonly name: string;
  readonly summary: string;
  /** `command` gets the arguments after the command's name. */
  load(): Promise<{ command(args: readonly string[]): Command | Promise<Command> }>;
}

/** Adds commands, and loads the command that `args` start with. */
export async function addLazily(parent: Command, entries: readonly Lazy[], args: readonly string[]): Promise<void> {
  for (const { name, summary, load } of entries) {
    const isAsked = args[0] === name;
    parent.addCommand(isAsked ? await (await load()).command(args.slice(1)) : newCommand(name, summary));
  }
}

/** Returns the message and exit code of an expected error; `null`: a bug in slotbus. */
export function explain(error: unknown): { message: string; exitCode: number } | null {
  if (error instanceof CommandError) return { message: error.message, exitCode: error.exitCode };
  if (error instanceof CommanderError) {
    const isHelp = error.exitCode === 0 || error.code === "commander.help";
    return isHelp ? { message: "", exitCode: EXIT.done } : { message: oneLine(error.message), exitCode: EXIT.usage };
  }
  if (!(error instanceof SlotbusError)) return null;
  return { message: error.message, exitCode: EXIT_BY_CODE[error.code] ?? EXIT.failed };
}

const EXIT_BY_CODE: Readonly<Record<string, number>> = {
  INVALID_CONFIG: EXIT.usage,
  BUS_NOT_FOUND: EXIT.notFound,
  FLEET_NOT_FOUND: EXIT.notFound,
  FLEET_BUSY: EXIT.noAnswer,
  RESOURCE: EXIT.noAnswer,
  DISCONNECTED: EXIT.noAnswer,
  CLAIM_UNCONFIRMED: EXIT.noAnswer,
  ADDRESS_IN_USE: EXIT.noAnswer,
};

/** Turns `error: unknown option '--fast'\n(Did you mean --short?)` into a sentence. */
function oneLine(message: string): string {
  const [what = "", suggestion] = message.replace(/^error: /, "").split("\n");
  const sentence = /[.?]$/.test(what) ? what : `${what}.`;
  return suggestion ? `${sentence} ${suggestion.replace(/^\((.*)\)$/, "$1")}` : sentence;
}

/** Returns a parser for a flag's value: a number from `low` to `high`. */
export function numberFrom(low: number, high: number): (text: string) => number {
  return (text) => {
    const value = /^\d+(?:\.\d+)?$/.test(text) ? Number(text) : NaN;
    if (value >= low && value <= high) return value;
    throw new InvalidArgumentError(`It must be a number from ${low} to ${high}.`);
  };
}

/** Returns the text of a file; `""` if it cannot be read. */
export function readText(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return ""; // it does not exist, has gone meanwhile, or this user cannot read it
  }
}
