/** Processes in separate namespaces, as in containers, that share only a directory. */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Checks, expect, needRoot, needTool, note, Place, Program, program } from "./checks.ts";
import { expectWell, Member } from "./fleet.ts";

/** Returns a command in new namespaces that sees the runtime directory under its own path. */
function contained(place: Place, role: string): string[] {
  needRoot();
  const mounted = join(place.folder, `inside-${role}-${crypto.randomUUID()}`);
  mkdirSync(mounted);
  const script = 'mount --bind "$0" "$1" && shift && exec "$@"';
  const namespaces = ["--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", "--net", "--uts"];
  return [needTool("unshare"), ...namespaces, "sh", "-c", script, place.directory, mounted, ...program(role, mounted)];
}

function makeDirectory(place: Place): void {
  mkdirSync(place.directory, { recursive: true, mode: 0o700 });
}

/** Polls until `ask` resolves to `count`. */
async function counts(what: string, count: number, ask: () => Promise<number>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while ((await ask()) !== count) expect(performance.now() < deadline, `not ${count} ${what} within 10 s`);
}

async function containersShareABus(): Promise<void> {
  using place = new Place();
  makeDirectory(place);
  await using client = new Program(contained(place, "client"));
  await client.expectLine("listening");
  const workers = async (): Promise<number> => {
    await client.tell("workers");
    const line = await client.lineFrom("workers ");
    await client.lineFrom("done workers");
    return Number(line.split(" ")[1]);
  };
  await using worker = new Program(contained(place, "worker"));
  await worker.expectLine("attached");
  await using outside = new Program(program("worker", place.directory));
  await outside.expectLine("attached");
  await counts("workers", 2, workers);
  await client.order("go 1000");
  await using second = new Program(contained(place, "client"));
  await second.expectLine("error BUS_EXISTS");
  worker.kill("SIGKILL");
  await counts("workers", 1, workers);
  await client.order("go 1000"); // served by the worker outside
  client.kill("SIGKILL");
  await outside.lineFrom("disconnected");
  await using heir = new Program(contained(place, "client"));
  await heir.expectLine("listening");
}

/** A lock reveals a death across pid namespaces. A waiter in another container notices it only at the lease's deadline. */
async function containersShareAFleet(): Promise<void> {
  using place = new Place();
  makeDirectory(place);
  await using one = await Member.start(contained(place, "member"));
  await one.join();
  await using other = await Member.start(contained(place, "member"));
  await other.join();
  await expectWell(one, other);
  const token = await one.claim("held");
  expect((await other.yields("held")) === token, "another container does not see a lease");
  const waited = await one.claim("waited", 3_000);
  await other.order("wait waited");
  one.kill("SIGKILL");
  await counts("members", 1, async () => (await other.members()).length);
  expect((await other.claim("held")) > token, "the killed member's lease is not free, or the new token is not higher");
  const line = await other.lineFrom("won waited");
  note(`the waiter got the lease ${line.split(" ")[3]} ms after it began to wait; the ttl was 3000 ms`);
  expect(Number(line.split(" ")[2]) > waited, `the next owner's token is not higher: ${line}`);
}

export const checks: Checks = {
  "a client and workers in separate pid, ipc, net and mount namespaces share a bus through its directory":
    containersShareABus,
  "members in separate namespaces share a fleet; the lease of a killed member is free at once": containersShareAFleet,
};
