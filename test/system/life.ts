/** The programs of life/: built, and run in pairs. */

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, needTool, root, run } from "./checks.ts";

export type Role = "client" | "worker" | Solo;
/** Those that need no other process: the bridge, and two members of a fleet, in a file or in memory. */
type Solo = "bridge" | "fleet" | "memory";

function isSolo(role: Role | null): role is Solo {
  return role !== null && role !== "client" && role !== "worker";
}

/** A run that takes longer hangs, in ms. */
const HANG_MS = 30_000;

export interface Ending {
  /** What it wrote. */
  text: string;
  /** 0, or how it failed. */
  code: number | string;
}

/** One process of life/, perhaps under strace. */
class Life {
  readonly #child;
  #text = "";
  readonly ending: Promise<Ending>;
  readonly #listening = Promise.withResolvers<boolean>();

  constructor(command: string[]) {
    this.#child = Bun.spawn(command, { stdio: ["pipe", "pipe", "pipe"], timeout: HANG_MS, killSignal: "SIGKILL" });
    this.ending = this.#read();
  }

  /** Whether it listens, or ended before it did. */
  get listening(): Promise<boolean> {
    return this.#listening.promise;
  }

  /** Tells a client that no worker comes any more. */
  leaveAlone(): void {
    void this.#child.stdin.end();
  }

  async #read(): Promise<Ending> {
    const started = performance.now();
    const decoder = new TextDecoder();
    const complaints = this.#child.stderr.text();
    for await (const chunk of this.#child.stdout) {
      this.#text += decoder.decode(chunk);
      if (this.#text.includes("listening")) this.#listening.resolve(true);
    }
    await this.#child.exited;
    this.#listening.resolve(false);
    const hung = performance.now() - started > HANG_MS - 1000;
    const code = hung ? "a hang" : (this.#child.signalCode ?? this.#child.exitCode ?? "");
    return { text: this.#text + (await complaints), code };
  }
}

export async function buildLife(folder: string): Promise<string> {
  const life = join(folder, "life");
  const sources = (name: string) => readdirSync(join(root, name)).map((file) => join(root, name, file));
  const files = [...sources("csrc"), ...sources("test/system/life")];
  const inputs = files.filter((file) => file.endsWith(".c") && !file.endsWith("os_macos.c"));
  // Static: the loader's own calls would be counted too.
  const flags = "-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wconversion -Wshadow -Werror -O1 -g -pthread -static";
  await run([needTool("gcc"), ...flags.split(" "), "-fno-strict-aliasing", `-I${root}/csrc`, "-o", life, ...inputs]);
  return life;
}

/** A client and a worker in a directory of their own, one of them perhaps under strace. */
export class Couple {
  readonly #life: string;
  readonly directory: string;
  readonly trace: string;

  constructor(life: string, directory: string) {
    this.#life = life;
    this.directory = directory;
    this.trace = `${directory}.trace`;
  }

  /** Runs both to their ends; the worker starts when the client listens. `strace` are its options for `traced`. */
  async live(traced: Role | null, strace: string[]): Promise<Partial<Record<Role, Ending>>> {
    const command = (role: Role) => {
      const prefix = role === traced ? ["strace", "-f", "-qq", "-o", this.trace, ...strace] : [];
      return [...prefix, this.#life, role, this.directory];
    };
    if (isSolo(traced)) return { [traced]: await new Life(command(traced)).ending };
    const client = new Life(command("client"));
    if (!(await client.listening)) return { client: await client.ending };
    const worker = new Life(command("worker"));
    const workerEnding = await worker.ending;
    client.leaveAlone();
    return { client: await client.ending, worker: workerEnding };
  }

  /** Runs a program of life/ to its end, without strace. */
  alone(what: Solo): Promise<Ending> {
    return new Life([this.#life, what, this.directory]).ending;
  }

  get files(): string[] {
    return existsSync(this.directory) ? readdirSync(this.directory) : [];
  }

  /** Both live without a fault, whatever was before, and leave nothing. */
  async expectClean(role: Role, when: string): Promise<void> {
    const endings = isSolo(role) ? { [role]: await this.alone(role) } : await this.live(null, []);
    for (const [who, { text, code }] of Object.entries(endings)) {
      const ok = code === 0 && /^end ok fds 0 maps 0$/m.test(text);
      expect(ok, `a clean ${who} ${when} ended with ${code}: ${text}`);
    }
    expect(isSolo(role) || Object.keys(endings).length === 2, `no clean worker ran ${when}`);
    expect(this.files.length === 0, `a clean run ${when} leaves ${this.files}`);
  }
}
