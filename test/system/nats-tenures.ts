/** Processes that compete for leases over NATS, and the intervals in which each believed that it held one. */

import { within } from "../wait.ts";
import { expect, until } from "./checks.ts";

/** A process of nats-contender.ts. */
export type Contender = Bun.Subprocess<"ignore", "pipe", "inherit">;

export function contender(...words: string[]): Contender {
  return Bun.spawn(["bun", `${import.meta.dir}/nats-contender.ts`, ...words], { stdio: ["ignore", "pipe", "inherit"] });
}

/** Calls `onLine` for each line of a process. Resolves with its last line. */
export async function read(child: Contender, onLine: (words: string[]) => void): Promise<void> {
  let rest = "";
  for await (const bytes of child.stdout) {
    const lines = (rest + Buffer.from(bytes).toString()).split("\n");
    rest = lines.pop()!;
    for (const line of lines) onLine(line.split(" "));
  }
}

interface Tenure {
  readonly label: string;
  readonly token: number;
  readonly from: number;
  readonly to: number;
  readonly who: number;
  /** How it ended, for messages. */
  readonly how: string;
}

/** Wall clock less the monotonic clock, in ms: a step of the wall clock ends leases on a server early or late. */
const wallClock = (): number => Date.now() - performance.now();

/** Processes that claim, hold and release leases until {@link end}. */
export class Tenures implements AsyncDisposable {
  readonly held: Tenure[] = [];
  readonly processes: readonly Contender[];
  readonly #labels: readonly string[];
  readonly #failed: string[] = [];
  readonly #wallClock = wallClock();
  readonly #reading: readonly Promise<void>[];

  /** `servers`: addresses with commas between them. */
  constructor(servers: string, fleet: string, labels: readonly string[], count: number) {
    this.#labels = labels;
    this.processes = Array.from({ length: count }, (_, n) =>
      contender(servers, fleet, "contend", labels.join(), `p${n}`),
    );
    this.#reading = this.processes.map((child, who) =>
      read(child, (words) => {
        const [what, label = "", token, from, to, ...how] = words;
        const times = { from: Number(from), to: Number(to) };
        if (what !== "held") this.#failed.push(words.join(" "));
        else if (times.to > times.from)
          this.held.push({ label, token: Number(token), ...times, who, how: how.join(" ") });
      }),
    );
  }

  /** Resolves when more than `count` further tenures have ended. */
  async more(count: number, what: string, ms = 60_000): Promise<void> {
    const before = this.held.length;
    await until(() => this.held.length > before + count, what, ms);
  }

  /** Lets the processes finish. */
  async end(): Promise<void> {
    for (const child of this.processes) child.kill("SIGTERM");
    await Promise.all(this.processes.map((child) => within(child.exited, 20_000)));
    await Promise.all(this.#reading);
  }

  /** Expects that no two held a lease at once, that tokens rise, and that at least `holders` pairs of process and lease occur. */
  audit(holders: number): void {
    expect(this.#failed.length === 0, `no other failures: ${this.#failed.slice(0, 3).join("; ")}`);
    let found = 0;
    for (const label of this.#labels) {
      const mine = this.held.filter((one) => one.label === label).sort((a, b) => a.from - b.from);
      found += new Set(mine.map((one) => one.who)).size;
      for (let n = 1; n < mine.length; n++) {
        const [a, b] = [mine[n - 1]!, mine[n]!];
        const both = `${JSON.stringify([a, b])}; the wall clock moved by ${(wallClock() - this.#wallClock).toFixed(1)} ms`;
        expect(b.from >= a.to, `two held ${label} for ${(a.to - b.from).toFixed(1)} ms: ${both}`);
        expect(b.token > a.token, `the token ${b.token} follows ${a.token}`);
      }
    }
    expect(found >= holders, `different processes had each lease: ${found} pairs of process and lease`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.processes) child.kill("SIGKILL");
    await Promise.all(this.processes.map((child) => child.exited));
  }
}
