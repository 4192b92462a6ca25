/** Control groups of Linux, version 1 or 2, with one limit each. Needs root. */

import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

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
export class ControlGroup implements AsyncDisposable {
  readonly folder: string;

  /** Throws if the group cannot be made. */
  constructor(controller: keyof typeof CONTROLLERS, limit: number) {
    const { first, second, text } = CONTROLLERS[controller];
    const old = existsSync(join(MOUNT, controller, "cgroup.procs"));
    this.folder = join(MOUNT, old ? controller : "", `slotbus-${process.pid}-${++serial}`);
    const [ofFirst, ofSecond] = text(limit);
    try {
      mkdirSync(this.folder);
      writeFileSync(join(this.folder, old ? first : second), old ? ofFirst! : ofSecond!);
    } catch (cause) {
      if (existsSync(this.folder)) rmdirSync(this.folder);
      throw new Error(`cannot create a ${controller} cgroup: ${(cause as Error).message}`, { cause });
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
    const deadline = performance.now() + 10_000;
    while (readFileSync(join(this.folder, "cgroup.procs"), "latin1") !== "" && performance.now() < deadline)
      await Bun.sleep(5);
    rmdirSync(this.folder);
  }
}
