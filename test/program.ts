/** A program that a test runs: its output and its log by line. */

import { until } from "./wait.ts";

/** A program whose output and log are read by line. */
export class Program implements AsyncDisposable {
  readonly process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly lines: string[] = [];
  readonly errors: string[] = [];

  constructor(command: readonly string[], env: Record<string, string> = {}) {
    this.process = Bun.spawn([...command], { env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "pipe"] });
    void this.#read(this.process.stdout, this.lines);
    void this.#read(this.process.stderr, this.errors);
  }

  async #read(stream: ReadableStream<Uint8Array>, lines: string[]): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of stream) {
      const [...whole] = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = whole.pop()!;
      lines.push(...whole);
    }
  }

  async line(prefix: string, ms = 20_000): Promise<string> {
    await until(() => this.lines.some((line) => line.startsWith(prefix)), `a line "${prefix}…"`, ms);
    return this.lines.findLast((line) => line.startsWith(prefix))!;
  }

  /** Its log, parsed: the lines that are JSON. */
  get log(): ({ event: string; level: string; pid?: number; message?: string } & Record<string, unknown>)[] {
    return this.errors.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  }

  async logged(event: string, count = 1, ms = 20_000): Promise<Program["log"][number]> {
    await until(() => this.log.filter((one) => one.event === event).length >= count, `${count} × ${event}`, ms);
    return this.log.filter((one) => one.event === event)[count - 1]!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGKILL");
    await this.process.exited;
  }
}
