/** What `slotbus top` remembers between frames: the course of each bus, and what the keys chose. */

import type { BusFrame, Frame } from "./watch.ts";

/** Number of frames in the course of a bus. */
const KEPT = 120;
const BARS = "▁▂▃▄▅▆▇█";

/** Orders of the buses; the key is its heading. */
const ORDERS: Record<string, (a: BusFrame, b: BusFrame) => number> = {
  name: () => 0, // as they come
  "REQ/S": (a, b) => b.requests_per_second - a.requests_per_second,
  P99: (a, b) => b.p99_us - a.p99_us,
  "ERR/S": (a, b) => b.errors_per_second - a.errors_per_second,
  QUEUE: (a, b) => b.queued - a.queued,
};

/** The course of one bus: a value for each frame, the newest last. */
export interface Course {
  readonly rates: number[];
  readonly p99s: number[];
}

/** Draws values as bars; the highest of them is the highest bar. */
export function sparkline(values: readonly number[]): string {
  const most = Math.max(...values);
  const bar = (value: number): string =>
    value > 0 ? BARS[Math.min(BARS.length - 1, Math.floor((value / most) * BARS.length))]! : " ";
  return values.map(bar).join("");
}

/** The state of a live screen. */
export class View {
  readonly #courses = new Map<string, Course>();
  #frame: Frame | null = null;
  #order = 0;
  #isPaused = false;

  /** The newest frame, or the one at which the screen was paused. */
  get frame(): Frame | null {
    if (!this.#frame) return null;
    return { ...this.#frame, buses: this.#frame.buses.toSorted(Object.values(ORDERS)[this.#order]) };
  }

  /** Adds a frame. While the screen is paused, only the courses grow. */
  add(frame: Frame): void {
    const names = new Set(frame.buses.map(({ name }) => name));
    for (const name of this.#courses.keys()) if (!names.has(name)) this.#courses.delete(name);
    for (const { name, requests_per_second: rate, p99_us: p99 } of frame.buses) {
      const course = this.#courses.get(name) ?? { rates: [], p99s: [] };
      this.#courses.set(name, course);
      for (const [values, value] of [
        [course.rates, rate],
        [course.p99s, p99],
      ] as const) {
        values.push(value);
        if (values.length > KEPT) values.shift();
      }
    }
    if (!this.#isPaused) this.#frame = frame;
  }

  courseOf({ name }: BusFrame): Course | undefined {
    return this.#courses.get(name);
  }

  /** Acts on a key. Returns whether the screen changes. */
  press(key: string): boolean {
    if (key === "s") this.#order = (this.#order + 1) % Object.keys(ORDERS).length;
    else if (key === " ") this.#isPaused = !this.#isPaused;
    else return false;
    return true;
  }

  /** The keys, and what they have chosen. */
  get hints(): string {
    const pause = this.#isPaused ? "space go on  PAUSED" : "space pause";
    return `q quit  s sort: ${Object.keys(ORDERS)[this.#order]}  ↑↓ scroll  ${pause}`;
  }
}
