/** Tests of the public API that pass on each wire, except those that are listed here, each with its reason. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

const BLOCKS = "requestSync and serveSync need shared memory";
const LENDS = "a view of shared memory";
const PROOF = "shared memory shows whether a worker has claimed a request; frames do not";
const ROOM = "counts the bytes of a ring";
const STATISTICS = "tools read them in shared memory; over NATS they ask the workers";
const RAW = "its worker is made of the C library; test/socket.test.ts breaks the rules of frames";
const WAITS = "waits for the worker without the event loop";
const PROC = "reads /proc, which only Linux has";
const OWNER = "without the library, the process id in a lock file is believed";
const FILES = "names over NATS have no files and no owner";
const SHARED = "over NATS a worker attaches to each client of the name, also to the next bus of this test";

/** Tests that are left out, by file: a part of their name, and why. */
export type Left = Record<string, readonly (readonly [name: string, reason: string])[]>;

/** For a wire of frames. */
export const portable: Left = {
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

/** For NATS. */
export const remote: Left = {
  ...portable,
  worker: [...portable["worker"]!, ["without a client open rejects", "over NATS the error names the server"]],
  bus: [
    ...portable["bus"]!,
    ["a second client on a live name is refused", FILES],
    ["a socket and a lock file of a dead client", FILES],
    ["a create that fails half-way", FILES],
    ["a lock file that is a symbolic link", FILES],
    ["bus names in two directories are two buses", FILES],
    ["close with work in flight waits for it", SHARED],
    ["several workers share the load", "clients that share workers choose the better of two at random"],
  ],
  metrics: [
    ["a blocking request is one span too", BLOCKS],
    ["for all ways to ask", BLOCKS],
    ["an observer sees the counters", STATISTICS],
    ["a queued request shows as queued", STATISTICS],
    ["metrics() is Prometheus' text", "a client that shares its name has one more label"],
  ],
};

/** What came of a file of tests. `strange`: names that are left out and that no test has. */
export interface Outcome {
  readonly failed: string[];
  readonly strange: string[];
  readonly exitCode: number;
  readonly passed: number;
  readonly said: string;
}

/** Runs the tests of a file, except `left`, in an environment. */
export async function runSuite(file: string, left: Left[string], env: Record<string, string>): Promise<Outcome> {
  const path = join(import.meta.dir, `${file}.test.ts`);
  const source = readFileSync(path, "utf8");
  const strange = left.filter(([name]) => !source.includes(name)).map(([name]) => name);
  const names = left.map(([name]) => name.replaceAll(/[$()*+.?[\\\]^{|}]/g, "\\$&"));
  const pattern = names.length === 0 ? "." : `^(?!.*(?:${names.join("|")})).*$`;
  const child = Bun.spawn([process.execPath, "test", path, "-t", pattern], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const [said, exitCode] = await Promise.all([child.stderr.text(), child.exited]);
  const failed = said.split("\n").filter((line) => line.startsWith("(fail)"));
  return { failed, strange, exitCode, passed: Number(/^ *(\d+) pass$/m.exec(said)?.[1]), said };
}
