/** JSON requests in a closed loop. Runs in the host of each contestant, in Bun and in Node. */

/** Sends params to the worker of a contestant; resolves to the result, which must equal them. */
export type Ask = (params: Params) => Promise<unknown>;

/** A unique number, and text that pads the JSON to the ordered size. */
export type Params = [serial: number, text: string];

/** An order for a host. */
export interface Order {
  bytes: number;
  inFlight: number;
  /** Requests of this time at the start do not count, in ms. */
  leadInMs: number;
  /** Duration in ms; longer until there are `minimum` samples. */
  ms: number;
  minimum: number;
}

/** Result of an order. */
export interface Outcome {
  /** Latency of each request, in ns. */
  latencies: number[];
  seconds: number;
}

/** Message of a host after an order. */
export type HostAnswer = { outcome: Outcome } | { error: string };

const FIRST_SERIAL = 1_000_000_000; // ten digits, so that all numbers have the same length
const FRAME_BYTES = JSON.stringify([FIRST_SERIAL, ""]).length;
const LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789";
let serial = FIRST_SERIAL;

function makeText(length: number, caller: number): string {
  return LETTERS.slice(caller % LETTERS.length)
    .concat(LETTERS.repeat(Math.ceil(length / LETTERS.length)))
    .slice(0, length);
}

/** Runs `inFlight` callers. Each sends its next request as soon as it has checked the response. */
export async function run(ask: Ask, { bytes, inFlight, leadInMs, ms, minimum }: Order): Promise<Outcome> {
  const latencies: number[] = [];
  let start = performance.now();
  const from = start + leadInMs;
  const end = from + ms;
  let isOver = false;
  const caller = async (index: number): Promise<void> => {
    const text = makeText(bytes - FRAME_BYTES, index);
    while (!isOver) {
      const own = serial++;
      const before = performance.now();
      const reply = await ask([own, text]);
      const after = performance.now();
      if (!Array.isArray(reply) || reply.length !== 2 || reply[0] !== own || reply[1] !== text)
        throw new Error(`the response to request ${own} of ${bytes} bytes differs from the request`);
      if (after < from) start = after;
      else latencies.push((after - before) * 1e6);
      if (after > end && latencies.length >= minimum) isOver = true;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, (_, index) => caller(index)));
  return { latencies, seconds: (performance.now() - start) / 1e3 };
}

/** Introduces the host and its worker, then runs orders until the parent ends. */
export function obey(ask: Ask, worker: number): void {
  process.on("disconnect", () => process.exit());
  process.on("message", (order) => {
    const say = (answer: HostAnswer): void => void process.send!(answer);
    run(ask, order as Order).then(
      (outcome) => say({ outcome }),
      (error) => say({ error: (error as Error).message }),
    );
  });
  process.send!({ pid: process.pid, isMainThread: true, address: String(worker) });
}

/** Matches responses with callers by id. */
export class Waiting {
  readonly #calls = new Map<number, (result: unknown) => void>();
  #id = 0;

  open(send: (id: number) => void): Promise<unknown> {
    const id = ++this.#id;
    return new Promise((resolve) => {
      this.#calls.set(id, resolve);
      send(id);
    });
  }

  answer({ id, result }: { id: number; result: unknown }): void {
    this.#calls.get(id)!(result);
    this.#calls.delete(id);
  }
}
