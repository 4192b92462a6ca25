/** Runs tests of the public API again on the socket wire, except those that need shared memory: each is listed with its reason. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const BLOCKS = "requestSync and serveSync need shared memory";
const LENDS = "a view of shared memory";
const PROOF = "shared memory shows whether a worker has claimed a request; a socket does not";
const ROOM = "counts the bytes of a ring";
const RAW = "its worker is made of the C library; test/socket.test.ts breaks the rules of frames";
const WAITS = "waits for the worker without the event loop";
const PROC = "reads /proc, which only Linux has";
const OWNER = "without the library, the process id in a lock file is believed";

/** Tests that are left out, by file: a part of their name, and why. */
const portable: Record<string, readonly (readonly [name: string, reason: string])[]> = {
  bus: [
    ["in the slot of a worker that does not claim it", PROOF],
    ["that dies before it began a request", PROOF],
    ["the view holds the bytes, its slot shows as lent", LENDS],
    ["a lent response outlives its worker and its bus", LENDS],
    ["an error is not lent", LENDS],
    ["a blocking request", BLOCKS],
    ["gets the requests that name it", BLOCKS],
    ["a request for it is rejected at once", BLOCKS],
    ["a request for it is rejected as overloaded", BLOCKS],
    ["a timeout of 0 sends nothing", BLOCKS],
    ["the error for a name in use", OWNER],
    ...(process.platform === "linux"
      ? []
      : [["a create that fails half-way", PROC] as const, ["a thousand buses and", PROC] as const]),
  ],
  contract: [["an endless handler runs ahead", ROOM]],
  fetch: [],
  stream: [
    ["request, borrow and fetch take it whole", LENDS],
    ["goes to another worker with its whole body when its worker ends", PROOF],
    ["a source that aborts its own request writes nothing", WAITS],
    ["touches only its rings' shared memory", ROOM],
    ["a blocking request refuses", BLOCKS],
    ["a worker that breaks the rules of a stream", RAW],
  ],
  worker: [
    ["a view that outlives its request crashes nothing", LENDS],
    ["serveSync", BLOCKS],
    ["a blocking worker with reconnect", BLOCKS],
  ],
  request: [["`aborted` is true in a handler that blocks", BLOCKS]],
  response: [
    ["loans", LENDS],
    ["views that outlive their loan", LENDS],
  ],
  body: [
    ["a blocking worker's handler keeps its bodies", BLOCKS],
    ["that was released before it is sent", LENDS],
  ],
  settle: [
    ["whose answer begins in the batch that evicts its worker", RAW],
    ["of two workers that break the protocol in one batch", RAW],
    ["a request that is still pending after its worker's end", RAW],
    ["a worker that overwrites its region leaves no caller waiting", RAW],
    ["a worker's unclaimed requests", PROOF],
    ["a caller that aborts before its request is claimed", RAW],
    ["makes a blocking request", BLOCKS],
    ["the body of a borrow that streamed", LENDS],
  ],
};

for (const [file, left] of Object.entries(portable)) {
  test(`the tests of ${file} pass on the socket wire, except ${left.length}`, () => {
    const path = join(import.meta.dir, `${file}.test.ts`);
    const source = readFileSync(path, "utf8");
    for (const [name] of left) expect(`${name}: ${source.includes(name)}`).toBe(`${name}: true`);
    const names = left.map(([name]) => name.replaceAll(/[$()*+.?[\\\]^{|}]/g, "\\$&"));
    const pattern = names.length === 0 ? "." : `^(?!.*(?:${names.join("|")})).*$`;
    const { exitCode, stderr } = Bun.spawnSync([process.execPath, "test", path, "-t", pattern], {
      env: { ...process.env, SLOTBUS_WIRE: "socket" },
    });
    const said = stderr.toString();
    const failed = said.split("\n").filter((line) => line.startsWith("(fail)"));
    expect({ failed, exitCode }).toEqual({ failed: [], exitCode: 0 });
    expect(Number(/^ *(\d+) pass$/m.exec(said)?.[1])).toBeGreaterThan(3);
  }, 120_000);
}
