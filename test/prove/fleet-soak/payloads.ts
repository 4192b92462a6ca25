/** The rings of the tested fleet, and their events. An event's content follows from its writer's life and its number. */

import { EventBus, type Filter, type Fleet } from "../../../src/events/index.ts";
import { and, equals, not, or, topic, where } from "../../../src/events/index.ts";

/** `most`: bytes of the largest event. The first are plain, the last two are of buses. */
export const RINGS = [
  { name: "tiny", frames: 8, frameBytes: 64, most: 128 },
  { name: "small", frames: 64, frameBytes: 128, most: 1_500 },
  { name: "wide", frames: 4_096, frameBytes: 256, most: 2_000 },
  { name: "bus", frames: 2_048, frameBytes: 256, most: 700 },
  { name: "narrow", frames: 32, frameBytes: 128, most: 600 },
] as const;
export const FIRST_BUS = 3;

export const GEOMETRY = {
  maxMembers: 32,
  maxLeases: 16,
  rings: Object.fromEntries(RINGS.map(({ name, frames, frameBytes }) => [name, { frames, frameBytes }])),
};

/** Opens the buses of a fleet, by the number of their ring. */
export async function openBuses(fleet: Fleet): Promise<ReadonlyMap<number, EventBus>> {
  const buses = new Map<number, EventBus>();
  for (let ring = FIRST_BUS; ring < RINGS.length; ring++) {
    buses.set(ring, await EventBus.open({ fleet, ring: RINGS[ring]!.name }));
  }
  return buses;
}

function mix(life: number, number: number, ring: number): number {
  let x = Math.imul(life + 1, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b) ^ Math.imul(ring + 1, 0xc2b2ae35);
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

const NOISE_BYTES = 65_536;
const noise = Buffer.alloc(NOISE_BYTES);
for (let i = 0; i < NOISE_BYTES; i += 4) noise.writeUInt32LE(mix(i, 7, 11), i);
const noiseText = noise.toString("base64");

/** Size of an event of a plain ring: often 0, a whole frame, a byte more; else anything. */
function sizeOf(ring: number, hash: number): number {
  const { frameBytes, most } = RINGS[ring]!;
  const dice = hash % 16;
  if (dice === 0) return 0;
  if (dice === 1) return frameBytes;
  if (dice === 2) return frameBytes + 1;
  if (dice < 9) return (hash >>> 8) % frameBytes;
  return (hash >>> 8) % (most + 1);
}

/** The bytes of an event of a plain ring. Its number travels as its kind. */
export function bytesOf(life: number, number: number, ring: number): Uint8Array<ArrayBuffer> {
  const hash = mix(life, number, ring);
  const size = sizeOf(ring, hash);
  const start = (hash >>> 4) % (NOISE_BYTES - size);
  return noise.subarray(start, start + size);
}

/** An event of a bus: filters read its topic, attributes and id. */
export interface Told {
  topic: string;
  id: string | undefined;
  attributes: { third: number; late: boolean };
  payload: { life: number; number: number; text: string };
}

const TOPICS = ["soak.a", "soak.b", "soak.b.c", "other"];

export function eventOf(life: number, number: number, ring: number): Told {
  const hash = mix(life, number, ring);
  const size = hash % 8 === 0 ? 0 : (hash >>> 8) % (RINGS[ring]!.most - 200);
  const start = (hash >>> 4) % (noiseText.length - size);
  return {
    topic: TOPICS[number % TOPICS.length]!,
    id: number % 5 === 0 ? `id-${number}` : undefined,
    attributes: { third: number % 3, late: number % 100 >= 90 },
    payload: { life, number, text: noiseText.slice(start, start + size) },
  };
}

/** Filters, and the numbers of the events that they accept. */
export const FILTERS: readonly { name: string; filter: Filter; wants: (number: number) => boolean }[] = [
  { name: "all", filter: { all: true }, wants: () => true },
  { name: "topic", filter: topic("soak.b.*"), wants: (n) => n % 4 === 2 },
  { name: "equals", filter: equals("third", 1), wants: (n) => n % 3 === 1 },
  {
    name: "not or",
    filter: not(or(topic("other"), equals("late", true))),
    wants: (n) => n % 4 !== 3 && n % 100 < 90,
  },
  {
    name: "and where",
    filter: and(
      topic("soak.*"),
      where((event: Told) => event.payload.number % 2 === 0),
    ),
    wants: (n) => n % 4 === 0 || n % 4 === 2,
  },
];
