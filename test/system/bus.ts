/** A bus with its own workers, for the checks: service.ts in the role `bus`. */

import { join } from "node:path";
import { expect, type Place, Program } from "./checks.ts";

export const service = (...words: string[]) => [process.execPath, join(import.meta.dir, "service.ts"), ...words];

/** How requests ended: `pids` of the workers that responded, and errors by their text. */
export interface Books {
  ok: number;
  pids: number[];
  errors: Record<string, number>;
}

export class Bus extends Program {
  /** Value of the bus's option `spin`, in µs. */
  spin = 0;

  /** Starts a bus whose workers are attached. `before`: the start of the command, which runs the rest. */
  static async start(place: Place, options: Record<string, unknown>, before: string[] = []): Promise<Bus> {
    const bus = new Bus([...before, ...service("bus", place.directory, JSON.stringify(options))]);
    bus.spin = Number((await bus.expectLine("ready")).split(" ")[1]);
    return bus;
  }

  /** Sends a command. Resolves to the rest of the line that starts with `start`. */
  async answer(command: string, start: string): Promise<string> {
    await this.tell(command);
    for (let line = await this.line(); ; line = await this.line()) {
      expect(!/^(error|ended with) /.test(line), `${command}: ${line}`);
      if (!line.startsWith(`${start} `)) continue;
      await this.lineFrom(`done ${command}`);
      return line.slice(start.length + 1);
    }
  }

  async books(command: string): Promise<Books> {
    return JSON.parse(await this.answer(command, "asked")) as Books;
  }

  /** Sends requests and expects that all get a response. */
  async allAnswered(requests: number, atOnce: number, path = "/"): Promise<Books> {
    const seen = await this.books(`ask ${requests} ${atOnce} ${path}`);
    expect(seen.ok === requests, `of ${requests} requests ${seen.ok} succeeded: ${JSON.stringify(seen.errors)}`);
    return seen;
  }

  /** Closes the bus, which must end in good order. */
  async quit(): Promise<void> {
    await this.tell("quit");
    const ending = await this.ended();
    expect(ending === 0, `the bus ended with ${ending}`);
  }
}
