/**
 * Runs the worlds of the replay above the wire of shared memory, with a process for each client and each worker, and prints what
 * they met. A failure prints its seed; the seed fixes the choices, not the timing of the machine.
 *
 *     bun test/replay/real/run.ts --worlds 100 [--seed 7] [--seconds 60] [--lanes 8]
 *
 *     stage.ts    starts, kills and stops processes      child.ts     one process: a client or a worker
 *     client.ts   the client's half of a world           worker.ts    a worker's half
 *     books.ts    the books, in shared memory            compare.ts   the same calls in the replay
 *
 * Calls, payloads, handlers, contracts, sources, readers, aborts, timeouts, kills, stops, evictions, drains and closes are the
 * same as in the replay, and the same books judge them. Every fourth world is calm: no choice in it depends on time, so each call
 * must end as in the replay. In the other worlds, a call that succeeds must have its value of the calm replay. Calls whose body
 * `fetch` may collect or stream are not compared: time decides which.
 *
 * The runner cannot choose, above a real wire:
 *
 *  - the order and the delay of bells, lost and doubled bells, the place of the first poll: the machine decides;
 *  - malformed heads and invalid counts: both sides are the library (`prove/hostile.ts` has such peers);
 *  - a connection that breaks while both processes live: this fault does nothing;
 *  - faults and aborts at a report: they come at a time instead, because reports of another process are not seen;
 *  - a size of the rings of streams, and a full socket: the options of the bus decide;
 *  - the personality that asks: there is no such wire yet.
 *
 * The limit of lateness does not apply to a call during which its process was paused: the machine may be busy.
 */

import { parseArgs } from "node:util";
import { playWorlds } from "./worlds.ts";

const { values } = parseArgs({
  options: {
    worlds: { type: "string", default: "100" },
    seed: { type: "string" },
    seconds: { type: "string", default: "Infinity" },
    /** Worlds at once. */
    lanes: { type: "string", default: "8" },
  },
});
const first = values.seed === undefined ? crypto.getRandomValues(new Uint32Array(1))[0]! : Number(values.seed);
const started = performance.now();
const tally = await playWorlds(first, Number(values.worlds), Number(values.seconds) * 1_000, Number(values.lanes));
const seconds = (performance.now() - started) / 1_000;
for (const failure of tally.failures) console.error(failure);
const { worlds, calm, calls, faults, kills, stops, ends } = tally;
const counts = [...ends].toSorted((a, b) => b[1] - a[1]).map(([end, count]) => `${end} ${count}`);
console.log(
  `${worlds} worlds from seed ${first} (${calm} calm), ${calls} calls, ${faults} faults, ${kills} kills, ${stops} stops, ` +
    `${(worlds / seconds).toFixed(1)} worlds per second; calls: ${counts.join(", ")}`,
);
process.exit(tally.failures.length > 0 ? 1 : 0);
