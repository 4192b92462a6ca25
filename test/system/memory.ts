/** Too little memory, address space, file size, or room on a disk. */

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { type Checks, expect, Lacking, limit, needRoot, needTool, note, Place, Program, program } from "./checks.ts";
import { expectWell, FILE, Member } from "./fleet.ts";

/** A memory cgroup, version 1 or 2, with a limit. */
class MemoryGroup implements Disposable {
  readonly folder: string;

  constructor(limit: number) {
    needRoot();
    const first = "/sys/fs/cgroup/memory";
    const second = "/sys/fs/cgroup";
    const old = existsSync(join(first, "memory.limit_in_bytes"));
    this.folder = join(old ? first : second, `slotbus-system-${process.pid}`);
    try {
      mkdirSync(this.folder);
      writeFileSync(join(this.folder, old ? "memory.limit_in_bytes" : "memory.max"), `${limit}`);
    } catch (cause) {
      throw new Lacking(`no memory cgroup can be made: ${(cause as Error).message}`);
    }
  }

  /** The command, to be run inside. */
  inside(command: string[]): string[] {
    return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', this.folder, ...command];
  }

  [Symbol.dispose](): void {
    rmdirSync(this.folder);
  }
}

async function memoryLimitIsAnError(): Promise<void> {
  const mebibyte = 1024 * 1024;
  const warm = `${16 * mebibyte}`; // of four slots, both ways: 128 MiB, more than the group
  using place = new Place();
  using group = new MemoryGroup(120 * mebibyte);
  await using client = new Program(group.inside(program("client", place.directory, "", warm)));
  await client.expectLine("listening");
  await using refused = new Program(program("worker", place.directory));
  await refused.expectLine("error RESOURCE");
  const line = await client.expectLine("refused uid"); // it lives, and says why
  expect(line.includes("memory"), `the client's reason is not memory: ${line}`);

  using elsewhere = new Place();
  await using free = new Program(program("client", elsewhere.directory, "", warm));
  await free.expectLine("listening");
  await using worker = new Program(program("worker", elsewhere.directory));
  await worker.expectLine("attached");
}

/** The kernel takes the largest process of the group: the worker, not the client. */
async function outOfMemoryIsSaid(): Promise<void> {
  using place = new Place();
  using group = new MemoryGroup(400 * 1024 * 1024);
  await using client = new Program(
    group.inside([process.execPath, join(import.meta.dir, "hungry.ts"), place.directory]),
  );
  const line = await client.expectLine("SIGKILL 1 ");
  const reason = "; meanwhile the kernel ended 1 process of this cgroup for lack of memory";
  expect(line.includes(reason), `the kernel's reason is not said: ${line}`);
}

// ---- limits of a process ---------------------------------------------------------------------------------------

const MEBIBYTE = 2 ** 20;

/** Bytes of address space that a process has taken. */
function addressSpace(pid: number): number {
  return 1024 * Number(/^VmSize:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1]);
}

/** A client without room for a region refuses by name, and takes the worker when there is room; so does a worker. */
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
    expect(line.includes("limit"), `the client's reason is no limit: ${line}`);
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

/** A file system of 64 KiB and a few inodes that only the processes inside see. */
class SmallDisk implements AsyncDisposable {
  readonly #holder: Program;
  readonly #mount: string;
  #files = 0;

  private constructor(holder: Program, mount: string) {
    this.#holder = holder;
    this.#mount = mount;
  }

  static async mount(at: string): Promise<SmallDisk> {
    needRoot();
    needTool("nsenter");
    const options = "size=64k,nr_inodes=12,mode=0700";
    const script = `mount -t tmpfs -o ${options} slotbus "$0" && echo mounted && exec cat`;
    const holder = new Program([needTool("unshare"), "--mount", "sh", "-c", script, at]);
    await holder.expectLine("mounted");
    return new SmallDisk(holder, at);
  }

  inside(command: string[]): Program {
    return new Program(this.#enter(command));
  }

  /** A member inside that has not joined. */
  member(directory: string): Promise<Member> {
    return Member.start(this.#enter(program("member", directory)));
  }

  #enter(command: string[]): string[] {
    return ["nsenter", "--mount", "--target", String(this.#holder.pid), "--", ...command];
  }

  path(name = ""): string {
    return join(`/proc/${this.#holder.pid}/root${this.#mount}`, name);
  }

  /** Makes files until no inode is left: how many. */
  takeInodes(): number {
    return this.#takeUntilFull(() => closeSync(openSync(this.path(`file-${this.#files}`), "wx")));
  }

  /** Writes into one file until no page is left: how many it took. */
  takePages(): number {
    const fd = openSync(this.path("pages"), "a");
    try {
      return this.#takeUntilFull(() => void writeSync(fd, new Uint8Array(4096)));
    } finally {
      closeSync(fd);
    }
  }

  /** Gives one inode back. */
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
        expect((error as NodeJS.ErrnoException).code === "ENOSPC", `not full: ${(error as Error).message}`);
        return taken;
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#holder[Symbol.asyncDispose]();
  }
}

/** Starts a client: `null` when it says that a resource is missing. Anything else, a signal too, fails. */
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
  note(`without inodes: ${refusals} refusals, by RESOURCE`);
  expect(refusals >= 3, "directory, lock and socket were not refused one by one");
  expect(disk.takePages() > 4, "there were no pages to take");
  expect((await tryClient(disk, place.directory)) === null, "a lock was written where no page is left");
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
    expect(disk.takePages() > 4 && disk.takeInodes() > 2, "the disk was full before");
    await client.order("go 1000");
    await using another = disk.inside(program("worker", place.directory)); // its region is no file
    await another.expectLine("attached");
    await client.order("go 1000");
  }
  expect(readdirSync(disk.path("bus")).length === 0, `the client left ${readdirSync(disk.path("bus"))}`);
}

async function sharedMemoryDiskMayBeFull(): Promise<void> {
  using place = new Place();
  await using disk = await SmallDisk.mount("/dev/shm");
  expect(disk.takePages() > 4 && disk.takeInodes() > 4, "/dev/shm was full before");
  await using client = disk.inside(program("client", place.directory));
  await client.expectLine("listening");
  await using worker = disk.inside(program("worker", place.directory));
  await worker.expectLine("attached");
  await client.order("go 1000");
}

// ---- fleets ----------------------------------------------------------------------------------------------------

const SMALL = JSON.stringify({ maxMembers: 4, maxLeases: 8, rings: { events: { frames: 8, frameBytes: 64 } } });
const LARGE = JSON.stringify({ maxMembers: 4, maxLeases: 8, rings: { events: { frames: 1024, frameBytes: 65_536 } } });

/** So little that even a small fleet has no room, until it is given back. */
async function fullDiskIsNoFleet(): Promise<void> {
  using place = new Place();
  await using disk = await SmallDisk.mount(place.folder);
  await using member = await disk.member(place.directory);
  const isEmpty = () => readdirSync(disk.path("bus")).length === 0;
  await member.refused("NO_SPACE", `join ${LARGE}`);
  expect(isEmpty(), "a fleet that is larger than the disk left a file");
  expect(disk.takeInodes() > 4, "there were no inodes to take");
  await member.refused("NO_SPACE", `join ${SMALL}`);
  for (let n = 0; n < 3; n++) disk.giveInode(); // for pages, a fleet and the next one
  expect(disk.takePages() > 4, "there were no pages to take");
  await member.refused("NO_SPACE", `join ${SMALL}`);
  expect(isEmpty(), "a fleet without a page left a file");
  disk.givePages();
  await member.join(SMALL);

  // Its space is its own: a disk that fills up under it, and members that are killed, change nothing.
  disk.takePages();
  await using other = await disk.member(place.directory);
  await other.join();
  await member.order("publish 100"); // each frame, many times
  for (let n = 0; n < 8; n++) await member.claim(`lease-${n}`);
  await member.refused("LEASE_TABLE_FULL", "claim another");
  for (let n = 0; n < 8; n++) await member.release(`lease-${n}`);
  await expectWell(member, other);
  const bytes = readFileSync(disk.path(`bus/${FILE}`)).readBigUInt64LE(8);
  member.kill("SIGKILL");
  other.kill("SIGKILL");
  await Promise.all([member.ended(), other.ended()]);
  await using heir = await disk.member(place.directory);
  await heir.refused("NO_SPACE", `join ${SMALL}`); // the orphan stays until another is whole
  const files = readdirSync(disk.path("bus"));
  expect(files.join() === FILE, `beside an orphan there is no room, and yet there is ${files}`);
  expect(readFileSync(disk.path(`bus/${FILE}`)).readBigUInt64LE(8) === bytes, "the orphan was touched");
  disk.givePages();
  await heir.join(SMALL);
}

async function limitIsNoFleet(what: "as" | "fsize", tooLittle: (pid: number) => number): Promise<void> {
  using place = new Place();
  await using member = await Member.start(program("member", place.directory));
  const options = JSON.stringify({ rings: { events: { frames: 16_384, frameBytes: 65_536 } } }); // 1 GiB
  await limit(member.pid, what, tooLittle(member.pid));
  const line = await member.refused("RESOURCE", `join ${options}`);
  expect(line.includes("limit"), `the reason is no limit: ${line}`);
  const left = existsSync(place.directory) ? readdirSync(place.directory) : [];
  expect(left.length === 0, `it left ${left}`);
  await limit(member.pid, what, "unlimited");
  await member.join(SMALL);
}

export const checks: Checks = {
  "a memory cgroup without room for a region is an error, not the end of the client": memoryLimitIsAnError,
  "a worker that the kernel ends for lack of memory is reported with that reason": outOfMemoryIsSaid,
  "too little address space for a region is an error, of the client or of the worker, and no more": () =>
    limitIsAnError("as", (pid) => addressSpace(pid) + 512 * MEBIBYTE),
  "a file size limit below a region is an error, and no more": () => limitIsAnError("fsize", () => MEBIBYTE),
  "a runtime directory without inodes or pages is an error that leaves no file, and nothing when they are back":
    fullDiskIsAnError,
  "a disk that fills up under a running bus disturbs neither it nor a worker that joins": diskThatFillsIsNotNoticed,
  "a full /dev/shm does not matter: regions are no files": sharedMemoryDiskMayBeFull,
  "a runtime directory without inodes or pages is no place for a fleet; one that fills up under a fleet disturbs nothing":
    fullDiskIsNoFleet,
  "a file size limit below a fleet is an error, and leaves no file": () => limitIsNoFleet("fsize", () => MEBIBYTE),
  "too little address space for a fleet is an error, and no more": () =>
    limitIsNoFleet("as", (pid) => addressSpace(pid) + 512 * MEBIBYTE),
};
