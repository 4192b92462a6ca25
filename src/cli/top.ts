/**
 * `slotbus top`: buses, hubs and fleets, live. It maps what they show of themselves read-only, and asks nobody; only a hub is
 * asked for its routes, once and when its workers have changed.
 */

import type { Command } from "commander";
import { draw, print, Screen } from "./terminal.ts";
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
      using watch = new Watch(flags.directory, name);
      if (flags.once || flags.json || !process.stdout.isTTY) await once(watch, flags);
      else await live(watch, flags.interval * 1_000);
    });
}

async function once(watch: Watch, { interval, json }: Flags): Promise<void> {
  await watch.look();
  if (watch.isEmpty && watch.name !== undefined)
    throw new CommandError(`there is no bus and no fleet "${watch.name}" in ${watch.directory}.`, EXIT.notFound);
  await Bun.sleep(interval * 1_000);
  const frame = await watch.look();
  print(json ? JSON.stringify(frame, null, 2) : draw(lines(frame), 80).join("\n"));
  const silent = [...frame.buses, ...frame.fleets].filter(({ problem }) => problem !== null);
  if (watch.name !== undefined && silent.length > 0) process.exitCode = EXIT.noAnswer;
}

async function live(watch: Watch, interval: number): Promise<void> {
  const ended = Promise.withResolvers<"ended">();
  let frame: Frame | null = null;
  const show = (): void => {
    if (frame) screen.show(lines(frame, screen.columns));
  };
  using screen = new Screen(() => ended.resolve("ended"), show);
  for (;;) {
    const looked = await Promise.race([watch.look(), ended.promise]);
    if (looked === "ended") return;
    frame = looked;
    show();
    const timer = Promise.withResolvers<"next">();
    const handle = setTimeout(() => timer.resolve("next"), interval);
    const what = await Promise.race([timer.promise, ended.promise]);
    clearTimeout(handle);
    if (what === "ended") return;
  }
}
