/** Control groups of Linux, version 1 or 2, with one limit each. */

import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Lacking, needRoot, until } from "./checks.ts";

const MOUNT = "/sys/fs/cgroup";
/** Length of the period of a processor quota, in µs. */
const PERIOD_US = 100_000;

/** Files of a controller: with the limit and with its text, in version 1 and in version 2. */
const CONTROLLERS = {
  /** `limit`: bytes. */
  memory: {
    first: "memory.limit_in_bytes",
    second: "memory.max",
    text: (limit: number) => [`${limit}`, `${limit}`],
  },
  /** `limit`: share of one processor. */
  cpu: {
    first: "cpu.cfs_quota_us",
    second: "cpu.max",
    text: (limit: number) => [`${limit * PERIOD_US}`, `${limit * PERIOD_US} ${PERIOD_US}`],
  },
};

let serial = 0;

/** A group with a limit. Its processes must have been told to end before it is disposed. */
export class Group implements AsyncDisposable {
  readonly folder: string;

  constructor(controller: keyof typeof CONTROLLERS, limit: number) {
    needRoot();
    const { first, second, text } = CONTROLLERS[controller];
    const old = existsSync(join(MOUNT, controller, "cgroup.procs"));
    this.folder = join(MOUNT, old ? controller : "", `slotbus-system-${process.pid}-${++serial}`);
    const [ofFirst, ofSecond] = text(limit);
    try {
      mkdirSync(this.folder);
      writeFileSync(join(this.folder, old ? first : second), old ? ofFirst! : ofSecond!);
    } catch (cause) {
      if (existsSync(this.folder)) rmdirSync(this.folder);
      throw new Lacking(`cannot create a ${controller} cgroup: ${(cause as Error).message}`);
    }
  }

  /** Returns a command that runs `command` in the group. */
  inside(command: string[]): string[] {
    return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', this.folder, ...command];
  }

  /** Returns a number of one of the group's files with lines `key number`. */
  figure(file: string, key: string): number {
    const text = readFileSync(join(this.folder, file), "latin1");
    return Number(new RegExp(`^${key} (\\d+)$`, "m").exec(text)?.[1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const isEmpty = () => readFileSync(join(this.folder, "cgroup.procs"), "latin1") === "";
    await until(isEmpty, "all processes of the cgroup have ended");
    rmdirSync(this.folder);
  }
}
