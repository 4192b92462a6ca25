/** `slotbus top`: buses, hubs and fleets, live. It maps what they show of themselves read-only, and asks nobody. */

import type { Command } from "commander";
import { draw, openScreen, print } from "./terminal.ts";
import { lines } from "./top/lines.ts";
import { type Frame, Watch } from "./top/watch.ts";
import { CommandError, type CommonFlags, EXIT, newCommand, numberFrom, withDirectory, withJson } from "./usage.ts";

export type { Frame };

interface Flags extends CommonFlags {
  once?: boolean;
  interval: number;
}

export function command(): Command {
  const top = newCommand("top", "show what buses and fleets do, live; q or ^C ends it", [
    "slotbus top",
    "slotbus top shop --interval 0.5",
    "slotbus top --once --json",
  ]);
  return withDirectory(withJson(top))
    .argument("[name]", "only the bus, hub or fleet of that name")
    .option("--once", "one frame, then end; so it is too when the output is no terminal")
    .option("--interval <seconds>", "between two frames", numberFrom(0.05, 60), 1)
    .addHelpText(
      "after",
      "\nREQ/S, P50 and P99 are of the last interval, from publication to delivery; TOTAL\nis since the bus was made. A hub shows the sum of its workers' buses NAME.*, which\nfollow it. A ring HOLDS an event for that time; LAG is what its slowest reader has\nnot read, in frames. A reader that lags by more than FRAMES loses events.",
    )
    .action(async (name: string | undefined, flags: Flags) => {
      const watch = new Watch(flags.directory, name);
      if (flags.once || flags.json || !process.stdout.isTTY) await once(watch, name, flags);
      else await live(watch, flags.interval * 1_000);
    });
}

async function once(watch: Watch, name: string | undefined, { interval, json }: Flags): Promise<void> {
  const { directory, buses, fleets } = await watch.look();
  if (name !== undefined && buses.length + fleets.length === 0)
    throw new CommandError(`there is no bus and no fleet "${name}" in ${directory}.`, EXIT.notFound);
  await Bun.sleep(interval * 1_000);
  const frame = await watch.look();
  print(json ? JSON.stringify(frame, null, 2) : draw(lines(frame), 80).join("\n"));
  const isSilent = [...frame.buses, ...frame.fleets].some(({ problem }) => problem !== null);
  if (name !== undefined && isSilent) process.exitCode = EXIT.noAnswer;
}

/** Until the screen ends the process, or a look fails. */
async function live(watch: Watch, interval: number): Promise<never> {
  let frame: Frame | null = null;
  using screen = openScreen((width) => (frame ? lines(frame, width) : []));
  for (;;) {
    frame = await watch.look();
    screen.redraw();
    await Bun.sleep(interval);
  }
}
