/** Too little memory, address space, file size or disk space. */

import { closeSync, existsSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { type Books, Bus } from "./bus.ts";
import { Group } from "./cgroup.ts";
import { type Checks, expect, limit, needRoot, needTool, note, Place, Program, program } from "./checks.ts";
import { expectWell, FILE, Member } from "./fleet.ts";

const MEBIBYTE = 2 ** 20;

async function memoryLimitIsAnError(): Promise<void> {
  const warm = `${16 * MEBIBYTE}`; // for four slots, both ways: 128 MiB, more than the group has
  using place = new Place();
  await using group = new Group("memory", 120 * MEBIBYTE);
  await using client = new Program(group.inside(program("client", place.directory, "", warm)));
  await client.expectLine("listening");
  await using refused = new Program(program("worker", place.directory));
  await refused.expectLine("error RESOURCE");
  const line = await client.expectLine("refused uid"); // the client lives and says why
  expect(line.includes("memory"), `the client's reason does not name memory: ${line}`);

  using elsewhere = new Place();
  await using free = new Program(program("client", elsewhere.directory, "", warm));
  await free.expectLine("listening");
  await using worker = new Program(program("worker", elsewhere.directory));
  await worker.expectLine("attached");
}

/**
 * The kernel kills the largest process of the group: a worker, not the client. The request that caused it fails and says so, all
 * others succeed, and the worker is replaced; twice.
 */
async function outOfMemoryIsReported(): Promise<void> {
  using place = new Place();
  await using group = new Group("memory", 500 * MEBIBYTE);
  const workers = { min: 2, max: 2, startupTimeout: 60_000, restart: { backoff: { initial: 20 } } };
  await using bus = await Bus.start(place, { timeout: 60_000, workers }, group.inside([]));
  for (let kills = 1; kills <= 2; kills++) {
    const before = (await bus.answer("workers", "workers")).split(",");
    const processes = kills === 1 ? "1 process" : "2 processes"; // the second victim also ran during the first kill
    await bus.tell("eat");
    const lines: string[] = [];
    const said = (start: string): string => lines.find((line) => line.startsWith(start)) ?? "";
    while (!(said("died ") && said("done "))) lines.push(await bus.line());
    expect(said("died ") === `died SIGKILL ${kills}`, `the event says: ${said("died ")}`);
    const ate = said("ate ");
    expect(ate.startsWith(`ate WORKER_DIED SIGKILL ${kills} true `), `the request that ate says: ${ate}`);
    const reason = `; meanwhile the out-of-memory killer killed ${processes} of this cgroup`;
    expect(ate.includes(reason), `the error does not name the out-of-memory killer: ${ate}`);
    const others = JSON.parse(said("asked ").slice("asked ".length)) as Books;
    expect(others.ok === 200, `other requests failed: ${JSON.stringify(others.errors)}`);
    await bus.order("ready 2");
    const after = (await bus.answer("workers", "workers")).split(",");
    const survivors = after.filter((pid) => before.includes(pid));
    expect(survivors.length === 1, `of the workers ${before} there are ${after} after a kill`);
    expect((await bus.answer("each", "each")) === "2", "not every worker answers after a kill");
  }
  await bus.quit();
}

// ---- limits of a process ---------------------------------------------------------------------------------------

/** Returns the size of a process's address space in bytes. */
function addressSpace(pid: number): number {
  return 1024 * Number(/^VmSize:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1]);
}

/** A client without room for a region refuses the worker with RESOURCE, and accepts it when there is room; a worker likewise. */
async function limitIsAnError(what: "as" | "fsize", tooLittle: (pid: number) => number): Promise<void> {
  using place = new Place();
  await using client = new Program(program("client", place.directory));
  await client.expectLine("listening");
  await using worker = new Program(program("patient", place.directory));
  await worker.expectLine("waiting");
  await limit(client.pid, what, tooLittle(client.pid));
  for (let round = 0; round < 3; round++) {
    await worker.tell("open 0");
    const answer = await worker.lineFrom("error");
    expect(answer.startsWith("error RESOURCE"), `the worker says: ${answer}`);
    const line = await client.expectLine("refused uid");
    expect(line.includes("limit"), `the client's reason does not name a limit: ${line}`);
  }
  await limit(client.pid, what, "unlimited");
  if (what === "as") {
    await limit(worker.pid, what, tooLittle(worker.pid));
    await worker.tell("open 0");
    const line = await worker.lineFrom("error");
    expect(line.startsWith("error RESOURCE") && line.includes("limit"), `the worker says: ${line}`);
    await limit(worker.pid, what, "unlimited");
  }
  await worker.tell("open 0");
  await worker.lineFrom("attached");
  await client.order("go 100");
}

// ---- a full disk -----------------------------------------------------------------------------------------------

/** A small file system with a few inodes that only the processes inside see. */
class SmallDisk implements AsyncDisposable {
  readonly #holder: Program;
  readonly #mount: string;
  #files = 0;

  private constructor(holder: Program, mount: string) {
    this.#holder = holder;
    this.#mount = mount;
  }

  static async mount(at: string, size = "64k"): Promise<SmallDisk> {
    needRoot();
    needTool("nsenter");
    const options = `size=${size},nr_inodes=12,mode=0700`;
    const script = `mount -t tmpfs -o ${options} slotbus "$0" && echo mounted && exec cat`;
    const holder = new Program([needTool("unshare"), "--mount", "sh", "-c", script, at]);
    await holder.expectLine("mounted");
    return new SmallDisk(holder, at);
  }

  inside(command: string[]): Program {
    return new Program(this.#enter(command));
  }

  /** Starts a member inside that has not joined. */
  member(directory: string): Promise<Member> {
    return Member.start(this.#enter(program("member", directory)));
  }

  #enter(command: string[]): string[] {
    return ["nsenter", "--mount", "--target", String(this.#holder.pid), "--", ...command];
  }

  path(name = ""): string {
    return join(`/proc/${this.#holder.pid}/root${this.#mount}`, name);
  }

  /** Creates files until no inode is left. Returns their number. */
  takeInodes(): number {
    return this.#takeUntilFull(() => closeSync(openSync(this.path(`file-${this.#files}`), "wx")));
  }

  /** Writes to one file until no page is left. Returns the number of pages. */
  takePages(): number {
    const fd = openSync(this.path("pages"), "a");
    try {
      return this.#takeUntilFull(() => void writeSync(fd, new Uint8Array(4096)));
    } finally {
      closeSync(fd);
    }
  }

  /** Frees one inode. */
  giveInode(): void {
    rmSync(this.path(`file-${--this.#files}`));
  }

  givePages(): void {
    rmSync(this.path("pages"));
  }

  #takeUntilFull(take: () => void): number {
    for (let taken = 0; ; taken++) {
      try {
        take();
        this.#files++;
      } catch (error) {
        expect((error as NodeJS.ErrnoException).code === "ENOSPC", `the disk is not full: ${(error as Error).message}`);
        return taken;
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#holder[Symbol.asyncDispose]();
  }
}

/** Starts a client. Resolves to `null` if it reports RESOURCE and ends; fails on any other outcome. */
async function tryClient(disk: SmallDisk, directory: string): Promise<Program | null> {
  const client = disk.inside(program("client", directory));
  const line = await client.line();
  if (line === "listening") return client;
  const ending = await client.ended();
  expect(line.startsWith("error RESOURCE") && ending === 3, `the client says "${line}" and ends with ${ending}`);
  return null;
}

async function fullDiskIsAnError(): Promise<void> {
  using place = new Place();
  await using disk = await SmallDisk.mount(place.folder);
  expect(disk.takeInodes() > 4, "there were no inodes to take");
  let refusals = 0;
  let client = await tryClient(disk, place.directory);
  for (; !client; client = await tryClient(disk, place.directory)) {
    refusals++;
    disk.giveInode();
  }
  await client[Symbol.asyncDispose]();
  note(`without inodes: ${refusals} refusals with RESOURCE`);
  expect(refusals >= 3, "directory, lock and socket did not fail one by one");
  expect(disk.takePages() > 4, "there were no pages to take");
  expect((await tryClient(disk, place.directory)) === null, "a lock was written although no page is left");
  expect(readdirSync(disk.path("bus")).length === 0, `the client left ${readdirSync(disk.path("bus"))}`);
  disk.givePages();
  await using heir = (await tryClient(disk, place.directory))!;
  await using worker = disk.inside(program("worker", place.directory));
  await worker.expectLine("attached");
  await heir.order("go 10");
}

async function diskThatFillsIsNotNoticed(): Promise<void> {
  using place = new Place();
  await using disk = await SmallDisk.mount(place.folder);
  {
    await using client = disk.inside(program("client", place.directory));
    await client.expectLine("listening");
    await using worker = disk.inside(program("worker", place.directory));
    await worker.expectLine("attached");
    await client.order("go 100");
    expect(disk.takePages() > 4 && disk.takeInodes() > 2, "the disk was already full");
    await client.order("go 1000");
    await using another = disk.inside(program("worker", place.directory)); // its region is not a file
    await another.expectLine("attached");
    await client.order("go 1000");
  }
  expect(readdirSync(disk.path("bus")).length === 0, `the client left ${readdirSync(disk.path("bus"))}`);
}

async function sharedMemoryDiskMayBeFull(): Promise<void> {
  using place = new Place();
  await using disk = await SmallDisk.mount("/dev/shm");
  expect(disk.takePages() > 4 && disk.takeInodes() > 4, "/dev/shm was already full");
  await using client = disk.inside(program("client", place.directory));
  await client.expectLine("listening");
  await using worker = disk.inside(program("worker", place.directory));
  await worker.expectLine("attached");
  await client.order("go 1000");
}

// ---- fleets ----------------------------------------------------------------------------------------------------

const SMALL = JSON.stringify({ maxMembers: 4, maxLeases: 8, rings: { events: { frames: 8, frameBytes: 64 } } });
const LARGE = JSON.stringify({ maxMembers: 4, maxLeases: 8, rings: { events: { frames: 1024, frameBytes: 65_536 } } });

/** Not even a small fleet fits until inodes and pages are freed. */
async function fullDiskHasNoFleet(): Promise<void> {
  using place = new Place();
  await using disk = await SmallDisk.mount(place.folder);
  await using member = await disk.member(place.directory);
  const isEmpty = () => readdirSync(disk.path("bus")).length === 0;
  await member.refused("NO_SPACE", `join ${LARGE}`);
  expect(isEmpty(), "a fleet that is larger than the disk left a file");
  expect(disk.takeInodes() > 4, "there were no inodes to take");
  await member.refused("NO_SPACE", `join ${SMALL}`);
  for (let n = 0; n < 3; n++) disk.giveInode(); // for the file of pages, a fleet and the next fleet
  expect(disk.takePages() > 4, "there were no pages to take");
  await member.refused("NO_SPACE", `join ${SMALL}`);
  expect(isEmpty(), "a fleet without a page left a file");
  disk.givePages();
  await member.join(SMALL);

  // The fleet has allocated its space: a disk that fills up, and members that are killed, do not disturb it.
  disk.takePages();
  await using other = await disk.member(place.directory);
  await other.join();
  await member.order("publish 100"); // writes each frame many times
  for (let n = 0; n < 8; n++) await member.claim(`lease-${n}`);
  await member.refused("LEASE_TABLE_FULL", "claim another");
  for (let n = 0; n < 8; n++) await member.release(`lease-${n}`);
  await expectWell(member, other);
  const bytes = readFileSync(disk.path(`bus/${FILE}`)).readBigUInt64LE(8);
  member.kill("SIGKILL");
  other.kill("SIGKILL");
  await Promise.all([member.ended(), other.ended()]);
  await using heir = await disk.member(place.directory);
  await heir.refused("NO_SPACE", `join ${SMALL}`); // the orphan stays until its replacement is complete
  const files = readdirSync(disk.path("bus"));
  expect(files.join() === FILE, `a failed join beside an orphan left ${files}`);
  expect(readFileSync(disk.path(`bus/${FILE}`)).readBigUInt64LE(8) === bytes, "the orphan was touched");
  disk.givePages();
  await heir.join(SMALL);
}

/** Each of them finds no fleet. If each made a file, two files would not fit. */
async function joiningNeedsRoomForOneFile(): Promise<void> {
  using place = new Place();
  await using disk = await SmallDisk.mount(place.folder, "36m");
  const options = JSON.stringify({ rings: { events: { frames: 32_768, frameBytes: 1_024 } } }); // 32 MiB
  for (let round = 0; round < 10; round++) {
    await using all = new AsyncDisposableStack();
    const members: Member[] = [];
    for (let n = 0; n < 4; n++) members.push(all.use(await disk.member(place.directory)));
    const joined = await Promise.all(members.map((member) => member.join(options)));
    expect(new Set(joined.map(({ epoch }) => epoch)).size === 1, "the members have joined different files");
    await Promise.all(members.map((member) => member.order("leave")));
  }
}

async function limitPreventsAFleet(what: "as" | "fsize", tooLittle: (pid: number) => number): Promise<void> {
  using place = new Place();
  await using member = await Member.start(program("member", place.directory));
  const options = JSON.stringify({ rings: { events: { frames: 16_384, frameBytes: 65_536 } } }); // 1 GiB
  await limit(member.pid, what, tooLittle(member.pid));
  const line = await member.refused("RESOURCE", `join ${options}`);
  expect(line.includes("limit"), `the reason does not name a limit: ${line}`);
  const left = existsSync(place.directory) ? readdirSync(place.directory) : [];
  expect(left.length === 0, `the member left ${left}`);
  await limit(member.pid, what, "unlimited");
  await member.join(SMALL);
}

export const checks: Checks = {
  "a memory cgroup without room for a region causes an error and does not end the client": memoryLimitIsAnError,
  "a worker that the out-of-memory killer killed is reported with that reason and replaced; no other request fails":
    outOfMemoryIsReported,
  "too little address space for a region causes only an error, in the client or in the worker": () =>
    limitIsAnError("as", (pid) => addressSpace(pid) + 512 * MEBIBYTE),
  "a file size limit below the size of a region causes only an error": () => limitIsAnError("fsize", () => MEBIBYTE),
  "a runtime directory without inodes or pages causes an error and leaves no file; a client starts when there is room again":
    fullDiskIsAnError,
  "a disk that fills up under a running bus disturbs neither the bus nor a worker that joins":
    diskThatFillsIsNotNoticed,
  "a full /dev/shm does not matter: regions are not files": sharedMemoryDiskMayBeFull,
  "a fleet cannot start on a full disk; a disk that fills up under a fleet does not disturb it": fullDiskHasNoFleet,
  "members that join at the same time need room for one file of their fleet": joiningNeedsRoomForOneFile,
  "a file size limit below the size of a fleet causes an error and leaves no file": () =>
    limitPreventsAFleet("fsize", () => MEBIBYTE),
  "too little address space for a fleet causes only an error": () =>
    limitPreventsAFleet("as", (pid) => addressSpace(pid) + 512 * MEBIBYTE),
};
