/** Builds the program of life/ and runs its roles. */

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, needTool, root, run } from "./checks.ts";

export type Role = "client" | "worker" | "blocking" | "hosts" | Solo;
/** What one process of a life runs under. */
export interface Watch {
  /** Options of strace. */
  strace?: string[];
  /** Traces the allocations, which strace does not see, and fails the n-th call of one allocator (0: none). */
  allocation?: [call: string, n: number];
}
/** Roles without a second process: a shared name with a door, the bridge, and two members of a fleet, in a file or in memory. */
type Solo = "shared" | "bridge" | "fleet" | "memory";

function isSolo(role: Role | null): role is Solo {
  return role !== null && !["client", "worker", "blocking", "hosts"].includes(role);
}

/** The two roles of processes that need each other, for one of them. The second starts when the first listens. */
function coupleOf(role: Role): ["client", "worker"] | ["hosts", "blocking"] {
  return role === "blocking" || role === "hosts" ? ["hosts", "blocking"] : ["client", "worker"];
}

/** Time after which a run counts as hanging, in ms. */
const HANG_MS = 30_000;

export interface Ending {
  /** Output of the process. */
  text: string;
  /** 0, or another exit code, a signal, or `a hang`. */
  code: number | string;
}

/** A process of life/, with or without strace. */
class Life {
  readonly #child;
  #text = "";
  readonly ending: Promise<Ending>;
  readonly #listening = Promise.withResolvers<boolean>();

  constructor(command: string[]) {
    this.#child = Bun.spawn(command, { stdio: ["pipe", "pipe", "pipe"], timeout: HANG_MS, killSignal: "SIGKILL" });
    this.ending = this.#read();
  }

  /** Resolves to `true` when the process listens, to `false` if it ends first. */
  get listening(): Promise<boolean> {
    return this.#listening.promise;
  }

  /** Tells a client that no worker will attach. */
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

/** Builds the program with `more` options of gcc. */
export async function buildLife(folder: string, more: string[] = []): Promise<string> {
  const life = join(folder, "life");
  const sources = (name: string) => readdirSync(join(root, name)).map((file) => join(root, name, file));
  const files = [...sources("csrc"), ...sources("test/system/life")];
  const inputs = files.filter((file) => file.endsWith(".c") && !file.endsWith("os_macos.c"));
  // Static, so that the loader makes no calls.
  const flags = "-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wconversion -Wshadow -Werror -O1 -g -pthread -static";
  const wraps = ["malloc", "calloc", "realloc", "free", "pthread_create"].map((call) => `-Wl,--wrap=${call}`);
  const options = [...flags.split(" "), ...wraps, ...more, "-fno-strict-aliasing", `-I${root}/csrc`];
  await run([needTool("gcc"), ...options, "-o", life, ...inputs]);
  return life;
}

/** A client and a worker in a private directory, one of them under strace if wanted. */
export class Couple {
  readonly #life: string;
  readonly directory: string;
  readonly trace: string;

  constructor(life: string, directory: string) {
    this.#life = life;
    this.directory = directory;
    this.trace = `${directory}.trace`;
  }

  /** Runs both to their ends; the worker starts when the client listens. With `watch`, the role is watched; it writes {@link trace}. */
  async live(traced: Role, watch: Watch | null): Promise<Partial<Record<Role, Ending>>> {
    const { strace, allocation } = watch ?? {};
    const command = (role: Role) => {
      const words = [this.#life, role, this.directory];
      if (role !== traced) return words;
      if (allocation) words.push(this.trace, allocation[0], String(allocation[1]));
      return strace ? ["strace", "-f", "-qq", "-o", this.trace, ...strace, ...words] : words;
    };
    if (isSolo(traced)) return { [traced]: await new Life(command(traced)).ending };
    const [first, second] = coupleOf(traced);
    const client = new Life(command(first));
    if (!(await client.listening)) return { [first]: await client.ending };
    const worker = new Life(command(second));
    const workerEnding = await worker.ending;
    client.leaveAlone();
    return { [first]: await client.ending, [second]: workerEnding };
  }

  /** Runs a solo role to its end, without strace. */
  alone(what: Solo): Promise<Ending> {
    return new Life([this.#life, what, this.directory]).ending;
  }

  get files(): string[] {
    return existsSync(this.directory) ? readdirSync(this.directory) : [];
  }

  /** Expects that both run without a fault, after any earlier run, and leave nothing behind. */
  async expectClean(role: Role, when: string): Promise<void> {
    const endings = isSolo(role) ? { [role]: await this.alone(role) } : await this.live(role, null);
    for (const [who, { text, code }] of Object.entries(endings)) {
      const ok = code === 0 && /^end ok fds 0 maps 0 blocks 0$/m.test(text);
      expect(ok, `a clean ${who} ${when} ended with ${code}: ${text}`);
    }
    expect(isSolo(role) || Object.keys(endings).length === 2, `no clean worker ran ${when}`);
    expect(this.files.length === 0, `a clean run ${when} leaves the files ${this.files}`);
  }
}
