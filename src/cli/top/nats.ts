/** `slotbus top --nats`: the buses on a NATS server live, by what their workers answer. */

import { busesOn, type BusEntry, type WorkerEntry } from "../nats.ts";
import { columns, count, draw, duration, type Line, openScreen, print } from "../terminal.ts";
import { CommandError, EXIT } from "../usage.ts";

/** A worker with its rate since the last look; `null` if it was not there then. */
interface Rated extends WorkerEntry {
  readonly requests_per_s: number | null;
}

interface Frame {
  readonly server: string;
  readonly buses: readonly { readonly name: string; readonly workers: readonly Rated[] }[];
}

/** Looks again and again, and compares. */
class Watch {
  readonly #server: string;
  readonly #name: string | undefined;
  #before = new Map<string, number>();
  #lookedAt = 0;

  constructor(server: string, name: string | undefined) {
    this.#server = server;
    this.#name = name;
  }

  async look(): Promise<Frame> {
    const all = await busesOn(this.#server);
    const now = performance.now();
    const seconds = (now - this.#lookedAt) / 1_000;
    const rated = (worker: WorkerEntry): Rated => {
      const before = this.#before.get(worker.id);
      return { ...worker, requests_per_s: before === undefined ? null : (worker.taken - before) / seconds };
    };
    const buses = all
      .filter(({ name }) => this.#name === undefined || name === this.#name)
      .map(({ name, workers }: BusEntry) => ({ name, workers: workers.map(rated) }));
    this.#before = new Map(all.flatMap(({ workers }) => workers.map(({ id, taken }) => [id, taken])));
    this.#lookedAt = now;
    return { server: this.#server, buses };
  }
}

const rate = (given: number | null): string => (given === null ? "-" : Math.round(given).toLocaleString("en"));

function lines({ server, buses }: Frame): Line[] {
  const shown: Line[] = [`slotbus ${server}  ${count(buses.length, "bus", "buses")}`];
  for (const { name, workers } of buses) {
    const all = workers.reduce((sum, { requests_per_s }) => sum + (requests_per_s ?? 0), 0);
    shown.push("", ["bold", `bus ${name}  ${count(workers.length, "worker")}  ${rate(all)} requests/s`]);
    const rows = workers.map((one) => [
      one.id.slice(0, 8),
      one.host,
      one.pid,
      rate(one.requests_per_s),
      `${one.running}/${one.concurrency}`,
      one.taken.toLocaleString("en"),
      duration(one.age_ms),
    ]);
    shown.push(...columns([["WORKER", "HOST", "PID", "REQ/S", "IN USE", "TAKEN", "AGE"], ...rows]).split("\n"));
  }
  if (buses.length === 0) shown.push("", "No worker answers.");
  return shown;
}

/** `interval` in ms. @throws {CommandError} if a bus is named and no worker of it answers */
export async function watchBuses(
  server: string,
  name: string | undefined,
  { interval, json, once }: { interval: number; json: boolean; once: boolean },
): Promise<void> {
  const watch = new Watch(server, name);
  let frame = await watch.look();
  if (once) {
    if (name !== undefined && frame.buses.length === 0)
      throw new CommandError(`No worker of bus "${name}" answers on ${server}.`, EXIT.notFound);
    await Bun.sleep(interval);
    frame = await watch.look();
    return print(json ? JSON.stringify(frame, null, 2) : draw(lines(frame), 80).join("\n"));
  }
  using screen = openScreen({ lines: () => lines(frame), hints: () => " q quit  ↑↓ scroll", press: () => false });
  for (;;) {
    screen.redraw();
    await Bun.sleep(interval);
    frame = await watch.look();
  }
}
