/** `slotbus events tail`: prints events of a fleet as they are published. It only observes: no member waits for it. */

import type { Command } from "commander";
import { EventBus } from "../events/bus.ts";
import { all, topic } from "../events/filter.ts";
import { Fleet } from "../fleet/fleet.ts";
import { onlyFleet } from "./claims.ts";
import { fit, LOOK_MS, paint, print, untilStopped } from "./terminal.ts";
import { type CommonFlags, newCommand, numberFrom, onlyOne, withDirectory, withJson } from "./usage.ts";

const BATCH = 256;
const PAYLOAD_SHOWN = 400;

interface Flags extends CommonFlags {
  ring?: string;
  topic: string;
  oldest?: boolean;
  raw?: boolean;
  count?: number;
}

/** A printed line; with --json one object per line. */
type Item =
  | { time: string; topic: string; id: string | null; attributes: object; payload: unknown; writer: number }
  | { time: string; kind: number; writer: number; payload: string }
  | { lost: number; epoch?: number };

export function command(): Command {
  const tail = newCommand("tail", "print events of a fleet as they are published", [
    "slotbus events tail crew",
    "slotbus events tail crew --topic 'order.*' --oldest --count 10 --json",
    "slotbus events tail crew --ring frames --raw",
  ]);
  withDirectory(withJson(tail))
    .argument("[fleet]", "name of the fleet; optional when there is only one")
    .option("--ring <name>", "ring of the fleet; optional when there is only one")
    .option("--topic <pattern>", "print only events with this topic; * at the end matches any rest", "*")
    .option("--oldest", "start with the oldest event in the ring (default: the next event)")
    .option("--raw", "print kind and text, for a ring that is not used by an EventBus")
    .option("--count <events>", "stop after this many events", numberFrom(1, 1e9))
    .addHelpText("after", "\nWith --json each line is one event. Stops at ^C, or when the last member leaves.")
    .action(run);
  return newCommand("events", "print the events of a fleet").addCommand(tail);
}

async function run(given: string | undefined, flags: Flags): Promise<void> {
  const name = given ?? onlyFleet(flags.directory);
  await using fleet = await Fleet.observe({ name, directory: flags.directory });
  const ring = flags.ring ?? onlyRing(fleet);
  let left = flags.count ?? Infinity;
  const next = await source(fleet, ring, flags);
  await untilStopped(async (stopped) => {
    const items = next(Math.min(BATCH, left));
    for (const item of items) {
      print(flags.json ? JSON.stringify(item) : describe(item));
      if ("time" in item) left--;
    }
    if (items.length > 0) return left > 0;
    if (!fleet.isCurrent) return false;
    await Promise.race([Bun.sleep(LOOK_MS), stopped]);
    return true;
  });
}

function onlyRing(fleet: Fleet): string {
  const names = fleet.geometry.rings.map(({ name }) => name);
  const whose = `Fleet "${fleet.name}" has`;
  return onlyOne(names, `${whose} ${names.length} rings`, `${whose} no ring.`, "Name one with --ring.");
}

/** Returns a function that reads at most `max` available items. */
async function source(fleet: Fleet, ring: string, flags: Flags): Promise<(max: number) => Item[]> {
  const from = flags.oldest ? "oldest" : "head";
  if (flags.raw) {
    const cursor = fleet.ring(ring).cursor({ from });
    return (max) =>
      cursor.poll(max).map((item) => {
        if ("overwritten" in item) return { lost: item.overwritten };
        if ("epoch" in item) return { lost: 0, epoch: item.epoch };
        const { time, kind, writer } = item;
        return { time: stamp(time), kind, writer, payload: item.text() };
      });
  }
  const bus = await EventBus.open({ fleet, ring });
  const filter = flags.topic === "*" ? all() : topic(flags.topic);
  const subscription = bus.subscribe(filter, { queue: { limit: 0 }, from });
  return (max) =>
    subscription.poll(max).map((event) => {
      if (event.topic === null) {
        const gap = event as { overwritten: number; dropped: number; epoch?: number };
        return { lost: gap.overwritten + gap.dropped, ...(gap.epoch === undefined ? {} : { epoch: gap.epoch }) };
      }
      const { time, topic: what, id, attributes, payload, writer } = event;
      return { time: stamp(time), topic: what, id, attributes, payload: readable(payload), writer };
    });
}

function stamp(ms: number): string {
  return new Date(ms).toISOString();
}

function readable(payload: unknown): unknown {
  return payload instanceof Uint8Array ? { bytes: payload.length, hex: payload.toHex().slice(0, 128) } : payload;
}

function describe(item: Item): string {
  if ("lost" in item) {
    if (item.epoch !== undefined) return paint("yellow", "— the fleet was created again —");
    return paint("yellow", `— ${item.lost} events were lost —`);
  }
  const time = paint("dim", item.time.slice(11, 23));
  if ("kind" in item) return `${time} ${item.kind} ${fit(item.payload, PAYLOAD_SHOWN)}`;
  const id = item.id === null ? "" : ` #${item.id}`;
  const attributes = Object.keys(item.attributes).length === 0 ? "" : ` ${JSON.stringify(item.attributes)}`;
  const payload = item.payload === undefined ? "" : ` ${JSON.stringify(item.payload)}`;
  return `${time} ${paint("bold", fit(item.topic, 80))}${fit(`${id}${attributes}${payload}`, PAYLOAD_SHOWN)}`;
}
