/** Requests of JSON in a closed loop. Runs in the host of each contestant, in Bun and in Node. */

/** Sends params to the worker of a contestant; resolves to the result, which must equal them. */
export type Ask = (params: Params) => Promise<unknown>;

/** A number that no other request has, and text; so long that all of it is as many bytes of JSON as were ordered. */
export type Params = [serial: number, text: string];

/** What a host is told to do. */
export interface Order {
  bytes: number;
  inFlight: number;
  /** What is done in the first so many ms does not count. */
  leadInMs: number;
  /** Lasts so long, or until there are `minimum` samples. */
  ms: number;
  minimum: number;
}

/** What became of it. */
export interface Outcome {
  /** Of each request, in ns. */
  latencies: number[];
  seconds: number;
}

/** What a host is told and what it says, after its introduction. */
export type HostAnswer = { outcome: Outcome } | { error: string };

const FIRST_SERIAL = 1_000_000_000; // ten digits, so that all are as long
const FRAME_BYTES = JSON.stringify([FIRST_SERIAL, ""]).length;
const LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789";
let serial = FIRST_SERIAL;

function makeText(length: number, caller: number): string {
  return LETTERS.slice(caller % LETTERS.length)
    .concat(LETTERS.repeat(Math.ceil(length / LETTERS.length)))
    .slice(0, length);
}

/** As many callers as are to be in flight, each asking again as soon as its answer is checked. */
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
        throw new Error(`the answer to request ${own} of ${bytes} bytes is another one`);
      if (after < from) start = after;
      else latencies.push((after - before) * 1e6);
      if (after > end && latencies.length >= minimum) isOver = true;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, (_, index) => caller(index)));
  return { latencies, seconds: (performance.now() - start) / 1e3 };
}

/** Introduces the host and its worker, and does what it is told until its parent ends. */
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

/** Callers by id, for those that write their messages by hand. */
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
