/** Processes in namespaces of their own, as containers have them, that share nothing but a directory. */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Checks, expect, needRoot, needTool, note, Place, Program, program } from "./checks.ts";
import { expectWell, Member } from "./fleet.ts";

/** The runtime directory of a place, at a path that only this container has. */
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

/** Resolves when it counts so many; it is a few milliseconds late, for nobody waits for its news here. */
async function counts(what: string, count: number, ask: () => Promise<number>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while ((await ask()) !== count) expect(performance.now() < deadline, `after 10 s still not ${count} ${what}`);
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
  await client.order("go 1000"); // by the one outside
  client.kill("SIGKILL");
  await outside.lineFrom("disconnected");
  await using heir = new Program(contained(place, "client"));
  await heir.expectLine("listening");
}

/** A death is known by its lock, whatever the process ids are; who waits for the lease hears of it when its time is over. */
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
  expect((await other.claim("held")) > token, "its lease is not free, or has an older token");
  const line = await other.lineFrom("won waited");
  note(`who waited had it ${line.split(" ")[3]} ms after it began to wait; the ttl was 3000`);
  expect(Number(line.split(" ")[2]) > waited, `the next owner's token is no higher: ${line}`);
}

export const checks: Checks = {
  "a client and workers in pid, ipc, net and mount namespaces of their own share a bus by its directory":
    containersShareABus,
  "members in namespaces of their own share a fleet; a lease of one that is killed is free at once":
    containersShareAFleet,
};
