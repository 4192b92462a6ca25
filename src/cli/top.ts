/** `slotbus top`: shows buses, hubs and fleets live. It only maps their statistics read-only. */

import type { Command } from "commander";
import { draw, openScreen, print } from "./terminal.ts";
import { lines } from "./top/lines.ts";
import { View } from "./top/view.ts";
import { type Frame, Watch } from "./top/watch.ts";
import { CommandError, type CommonFlags, EXIT, newCommand, numberFrom, withDirectory, withJson } from "./usage.ts";

export type { Frame };

interface Flags extends CommonFlags {
  once?: boolean;
  interval: number;
  nats?: string;
}

export function command(): Command {
  const top = newCommand("top", "show live rates, latencies and workers; q or ^C quits", [
    "slotbus top",
    "slotbus top shop --interval 0.5",
    "slotbus top --once --json",
    "slotbus top --nats nats://10.0.0.5",
  ]);
  return withDirectory(withJson(top))
    .argument("[name]", "show only the bus, hub or fleet with this name")
    .option("--once", "print one frame and exit; the default when the output is not a terminal")
    .option("--nats <url>", "the buses on this NATS server instead, by what their workers answer")
    .option("--interval <seconds>", "time between two frames", numberFrom(0.05, 60), 1)
    .addHelpText(
      "after",
      "\nREQ/S, P50 and P99 cover the last interval; latency is from publication to\n" +
        'delivery. The line "total" counts since the creation of the bus. A bus that\n' +
        "several clients share has a column for each client and the sum in ALL; its\n" +
        "tables count a worker once. A hub shows the sum of its workers' buses NAME.*,\n" +
        "which are listed below it. On a terminal, bars show the course of REQ/S and P99;\n" +
        "red means errors, yellow that requests wait for a worker or that a worker is\n" +
        "full. HOLDS is how long a ring keeps an event at the current rate. LAG is the\n" +
        "number of frames that the slowest reader has not read; a reader with a LAG above\n" +
        "FRAMES loses events. Keys: s sorts the buses, space pauses, arrows scroll.",
    )
    .action(async (name: string | undefined, flags: Flags) => {
      const isOnce = flags.once === true || flags.json === true || !process.stdout.isTTY;
      if (flags.nats !== undefined) {
        const options = { interval: flags.interval * 1_000, json: flags.json === true, once: isOnce };
        return (await import("./top/nats.ts")).watchBuses(flags.nats, name, options);
      }
      const watch = new Watch(flags.directory, name);
      if (isOnce) await once(watch, name, flags);
      else await live(watch, flags.interval * 1_000);
    });
}

async function once(watch: Watch, name: string | undefined, { interval, json }: Flags): Promise<void> {
  const { directory, buses, fleets } = await watch.look();
  if (name !== undefined && buses.length + fleets.length === 0)
    throw new CommandError(`There is no bus, hub or fleet named "${name}" in ${directory}.`, EXIT.notFound);
  await Bun.sleep(interval * 1_000);
  const frame = await watch.look();
  print(json ? JSON.stringify(frame, null, 2) : draw(lines(frame), 80).join("\n"));
  const isSilent = [...frame.buses, ...frame.fleets].some(({ problem }) => problem !== null);
  if (name !== undefined && isSilent) process.exitCode = EXIT.noAnswer;
}

/** Time before the first frame, in ms: a rate needs two looks. */
const FIRST_MS = 250;

/** Redraws until the screen ends the process. */
async function live(watch: Watch, interval: number): Promise<never> {
  const view = new View();
  await watch.look();
  await Bun.sleep(Math.min(FIRST_MS, interval));
  using screen = openScreen({
    lines: (width) => (view.frame ? lines(view.frame, width, view) : []),
    hints: () => view.hints,
    press: (key) => view.press(key),
  });
  for (;;) {
    view.add(await watch.look());
    screen.redraw();
    await Bun.sleep(interval);
  }
}
