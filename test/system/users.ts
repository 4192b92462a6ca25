/** Another user, who is not allowed, who is, and who was there first. */

import { chmodSync, chownSync, cpSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findLibrary } from "../../src/native/find.ts";
import {
  type Checks,
  expect,
  needRoot,
  needTool,
  note,
  Place,
  Program,
  program,
  root,
  run,
  stranger,
} from "./checks.ts";
import { expectWell, FILE, Member } from "./fleet.ts";
import { buildLife } from "./life.ts";

/** What a stranger may read: a copy of the program, the library and Bun. */
class PublicPlace extends Place {
  readonly #bun = join(this.folder, "bun");
  readonly #library = join(this.folder, "libslotbus.so");

  constructor() {
    super();
    chmodSync(this.folder, 0o755);
    cpSync(process.execPath, this.#bun, { dereference: true });
    chmodSync(this.#bun, 0o755);
    cpSync(findLibrary(), this.#library, { dereference: true });
    for (const name of ["src", "test/system/program.ts", "test/system/member.ts"]) {
      cpSync(join(root, name), join(this.folder, name), { recursive: true });
    }
  }

  get env(): Record<string, string> {
    return { SLOTBUS_LIB: this.#library, HOME: this.folder, BUN_INSTALL: this.folder };
  }

  program(...words: string[]): string[] {
    return [this.#bun, join(this.folder, "test/system/program.ts"), ...words];
  }

  /** `before`: a command that runs the program. */
  asStranger(before: string[], ...words: string[]): Program {
    return new Program(this.#strange(words, before), this.env);
  }

  /** A member that has not joined. */
  member(who: "ours" | "stranger", directory = this.directory): Promise<Member> {
    const words = ["member", directory];
    return Member.start(who === "ours" ? this.program(...words) : this.#strange(words), this.env);
  }

  #strange(words: string[], before: string[] = []): string[] {
    const identity = ["--reuid", `${stranger}`, "--regid", `${stranger}`, "--clear-groups"];
    return [needTool("setpriv"), ...identity, ...before, ...this.program(...words)];
  }

  async listen(uids: string): Promise<Program> {
    const client = new Program(this.program("client", this.directory, uids), this.env);
    await client.expectLine("listening");
    return client;
  }
}

async function strangerStopsAtTheDirectory(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using client = await place.listen("");
  expect((statSync(place.directory).mode & 0o777) === 0o700, "the directory is not 0700");
  await using refused = place.asStranger([], "worker", place.directory);
  await refused.expectLine("error PERMISSION_DENIED");
  await using ours = new Program(place.program("worker", place.directory), place.env); // the client is well
  await ours.expectLine("attached");
  await client.expectLine("joined uid 0");
}

async function strangerStopsAtTheClient(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using client = await place.listen("4242");
  expect((statSync(place.directory).mode & 0o777) === 0o711, "the directory is not 0711");
  await using refused = place.asStranger([], "worker", place.directory);
  const line = await refused.expectLine("error PERMISSION_DENIED");
  expect(line.includes(`${stranger}`), `the worker's error does not name its uid: ${line}`);
  await client.expectLine(`refused uid ${stranger}`);
  await using ours = new Program(place.program("worker", place.directory), place.env);
  await ours.expectLine("attached");
  await client.expectLine("joined uid 0");
}

async function allowedStrangerWorks(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using client = await place.listen(`${stranger}`);
  await using worker = place.asStranger([], "worker", place.directory);
  await worker.expectLine("attached");
  await client.expectLine(`joined uid ${stranger}`);
  await client.order("go 100");
}

async function sharedDirectoryNeedsAllowedUids(): Promise<void> {
  using place = new Place();
  await run(["mkdir", "-m", "0711", place.directory]);
  await using open = new Program(program("client", place.directory));
  await open.expectLine("error PERMISSION_DENIED");
  chmodSync(place.directory, 0o700);
  await using closed = new Program(program("client", place.directory));
  await closed.expectLine("listening");
}

async function foreignDirectoryIsRefused(): Promise<void> {
  needRoot();
  using place = new Place();
  await run(["mkdir", "-m", "0700", place.directory]);
  chownSync(place.directory, stranger, stranger);
  await using client = new Program(program("client", place.directory));
  const line = await client.expectLine("error PERMISSION_DENIED");
  expect(line.includes(`belongs to uid ${stranger} (`), `the owner is not named: ${line}`);
  expect(line.includes("Set SLOTBUS_DIR"), `the way out is not named: ${line}`);
}

/** No mode keeps root out, so this takes another user. */
async function umaskLeavesTheOwnerItsRights(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  chmodSync(place.folder, 0o1777);
  const bare = (...words: string[]): Program => place.asStranger(["sh", "-c", 'umask 0777; exec "$@"', "sh"], ...words);
  await using client = bare("client", place.directory, "");
  await client.expectLine("listening");
  expect((statSync(place.directory).mode & 0o777) === 0o700, "the directory is not 0700");
  await using worker = bare("worker", place.directory);
  await worker.expectLine("attached");
  await client.order("go 100");
}

/** Of a bus whose directory would be on a file system that nobody can write to. */
async function readOnlyIsNoReasonToRetry(): Promise<void> {
  needRoot();
  using place = new Place();
  const script = 'mount -t tmpfs -o ro,mode=0755 slotbus "$0" && exec "$@"';
  const inside = [needTool("unshare"), "--mount", "sh", "-c", script, place.folder];
  await using client = new Program([...inside, ...program("client", place.directory)]);
  const line = await client.expectLine("error RESOURCE");
  const said = line.includes("read-only file system (EROFS)") && line.includes("Set SLOTBUS_DIR");
  expect(said && !line.endsWith("[retryable]"), `it says: ${line}`);
}

// ---- another user who was there first --------------------------------------------------------------------------

/** Runs a shell script as another user, or as ourselves. */
async function shell(script: string, folder: string, uid = stranger): Promise<string> {
  const identity = ["--reuid", `${uid}`, "--regid", `${uid}`, "--clear-groups"];
  return run([needTool("setpriv"), ...identity, "sh", "-c", `cd "$0" && ${script}`, folder]);
}

/** What can stand where a name of ours should be. `victim` is a file that must stay as it is. */
const SQUATS: Record<string, string> = {
  "a directory": "mkdir -m 700",
  "a link to a directory": "mkdir -p -m 700 elsewhere && ln -s elsewhere",
  "a link to a file": "ln -s victim",
  "a link to nothing": "ln -s nowhere",
  "a FIFO": "mkfifo",
  "a file": "touch",
};

async function squattedDirectory(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  chmodSync(place.folder, 0o1777);
  for (const [index, [what, script]] of Object.entries(SQUATS).entries()) {
    const directory = join(place.folder, `bus-${index}`);
    await shell(`${script} bus-${index}`, place.folder);
    await using client = new Program(place.program("client", directory), place.env);
    const line = await client.line();
    expect(line.startsWith("error PERMISSION_DENIED"), `a client whose directory is ${what} says: ${line}`);
    await using worker = new Program(place.program("worker", ""), { ...place.env, SLOTBUS_DIR: directory });
    const answer = await worker.line();
    const missing = what === "a link to nothing" && answer.startsWith("error BUS_NOT_FOUND");
    const refused = missing || answer.startsWith("error PERMISSION_DENIED");
    expect(refused, `a worker whose directory is ${what} says: ${answer}`);
  }
}

/** Files in our own directory that another user made while it was open to him, or led him to. */
async function squattedFile(suffix: "lock" | "sock", error: string, isRefused: (what: string) => boolean) {
  needRoot();
  using place = new PublicPlace();
  const squats = { ...SQUATS, "another name of a file": "ln victim", "another name of ours": "ln ours" };
  for (const [index, [what, script]] of Object.entries(squats).entries()) {
    const directory = join(place.folder, `bus-${index}`);
    mkdirSync(directory);
    writeFileSync(join(directory, "ours"), "precious");
    chmodSync(directory, 0o777);
    await shell("echo precious > victim", directory);
    await shell(`${script} system.${suffix}`, directory, what === "another name of ours" ? 0 : stranger);
    chmodSync(directory, 0o700);
    await using client = new Program(place.program("client", directory), place.env);
    const line = await client.line();
    const right = isRefused(what) ? line.startsWith(`error ${error}`) : line === "listening";
    expect(right, `a client whose ${suffix} is ${what} says: ${line}`);
    if (line === "listening") {
      await using worker = new Program(place.program("worker", directory), place.env);
      await worker.expectLine("attached");
      await client.order("go 10");
    }
    const texts = ["victim", "ours"].map((name) => readFileSync(join(directory, name), "utf8").trim());
    expect(texts.join() === "precious,precious", `a client whose ${suffix} is ${what} wrote: ${texts}`);
  }
}

// ---- fleets ----------------------------------------------------------------------------------------------------

const DENIED = "PERMISSION_DENIED";

async function strangerStopsAtTheFleet(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using one = await place.member("ours");
  await one.join();
  await using refused = await place.member("stranger");
  // A directory of mode 0711 leads him no further than the private one.
  for (const mode of [0o700, 0o711]) {
    chmodSync(place.directory, mode);
    for (const command of ["join", "observe"]) {
      const line = await refused.answer(command, "error ");
      expect(/^error (PERMISSION_DENIED|RESOURCE): /.test(line), `another user hears: ${line}`);
    }
  }
  await one.refused(DENIED); // ours, but not closed to others
  chmodSync(place.directory, 0o700);
  expect((statSync(join(place.directory, FILE)).mode & 0o7777) === 0o600, "the file is not 0600");
  await using other = await place.member("ours");
  await other.join();
  await expectWell(one, other);
}

async function foreignFleetIsRefused(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  const directory = join(place.folder, "his");
  await run(["mkdir", "-m", "0700", directory]);
  chownSync(directory, stranger, stranger);
  await using his = await place.member("stranger", directory);
  const { epoch } = await his.join();
  await using root = await place.member("ours", directory);
  for (const command of ["join", "observe"]) await root.refused(DENIED, command);
  await using heir = await place.member("stranger", directory);
  expect((await heir.join()).epoch === epoch, "his fleet is another one now");
  await expectWell(his, heir);
}

/** What another user, or we, made of the name of the file before anybody joined. */
async function squattedFleet(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  const squats = { ...SQUATS, "another name of a file": "ln victim", "another name of ours": "ln ours" };
  for (const [index, [what, script]] of Object.entries(squats).entries()) {
    const directory = join(place.folder, `fleet-${index}`);
    mkdirSync(directory);
    writeFileSync(join(directory, "ours"), "precious");
    chmodSync(directory, 0o777);
    await shell("echo precious > victim", directory);
    await shell(`${script} ${FILE}`, directory, what === "another name of ours" ? 0 : stranger);
    chmodSync(directory, 0o700);
    await using member = await place.member("ours", directory);
    for (const command of ["join", "observe"]) await member.refused(DENIED, command);
    const texts = ["victim", "ours"].map((name) => readFileSync(join(directory, name), "utf8").trim());
    expect(texts.join() === "precious,precious", `a member whose file is ${what} wrote: ${texts}`);
  }
}

/** A fleet's own file, given to another user or opened to others while nobody lives: refused, and left as it is. */
async function fleetThatIsNotOursAloneIsRefused(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  const file = join(place.directory, FILE);
  await using dead = await place.member("ours");
  const { epoch } = await dead.join();
  dead.kill("SIGKILL");
  await dead.ended();
  const bytes = readFileSync(file);
  await using member = await place.member("ours");
  const spoils: [spoil: () => void, mend: () => void][] = [
    [() => chownSync(file, stranger, stranger), () => chownSync(file, 0, 0)],
    ...[0o644, 0o660, 0o666, 0o400, 0o4600].map((mode): [() => void, () => void] => [
      () => chmodSync(file, mode),
      () => chmodSync(file, 0o600),
    ]),
  ];
  for (const [spoil, mend] of spoils) {
    spoil();
    for (const command of ["join", "observe"]) await member.refused(DENIED, command);
    expect(readFileSync(file).equals(bytes), "a file that was refused was written to");
    mend();
  }
  expect((await member.join()).epoch > epoch, "the next epoch is no later");
}

// ---- what another user can reach -------------------------------------------------------------------------------

async function descriptorsAreOfNoUse(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using client = await place.listen(`${stranger}`);
  const life = await buildLife(place.folder);
  chmodSync(life, 0o755);
  const nothing = "reopened 0 read 0 mode 0 owner 0 size 0 seals 0";
  const texts = await shell(`exec ./life reopen "${place.directory}"`, place.folder);
  // The region is his to write to, the statistics are not.
  expect(texts.includes(`region ${nothing} written 1\n`), `with the region he could: ${texts}`);
  expect(texts.includes(`statistics ${nothing} written 0\n`), `with the statistics he could: ${texts}`);

  // From outside he does not even get so far; we do, so there is something to get at.
  const reopen = `cat /proc/${client.pid}/fd/* 2>&1 >/dev/null; ls /proc/${client.pid}/fd /proc/${client.pid}/map_files 2>&1 || true`;
  const seen = await shell(reopen, "/");
  expect(!/^\d+$/m.test(seen) && seen.includes("Permission denied"), `he sees: ${seen}`);
  await using ours = new Program(place.program("worker", place.directory), place.env);
  await ours.expectLine("attached");
  await client.order("go 100");
}

async function floodDisturbsNobody(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using client = await place.listen("4242"); // so that he can enter
  await using ours = new Program(place.program("worker", place.directory), place.env);
  await ours.expectLine("attached");
  await client.lineFrom("joined");
  await using flood = place.asStranger([], "flood", place.directory);
  await flood.expectLine("flooding");
  await using late = new Program(place.program("worker", place.directory), place.env);
  await late.expectLine("attached");
  await client.order("go 1000");
  await flood.tell("count");
  const line = await flood.lineFrom("refused");
  note(`another user's connections: ${line}`);
  expect(Number(line.split(" ")[1]) > 100, `he was hardly refused: ${line}`);
}

export const checks: Checks = {
  "another user stops at the client's private directory": strangerStopsAtTheDirectory,
  "another user that may enter the directory is refused by the client, by uid": strangerStopsAtTheClient,
  "another user whose uid is allowed attaches and answers": allowedStrangerWorks,
  "a directory that others may enter is refused by a client that allows no other user": sharedDirectoryNeedsAllowedUids,
  "a directory of another user is refused, even by root, with its owner and the way out": foreignDirectoryIsRefused,
  "under umask 0777 another user than root has a directory, and a bus in it": umaskLeavesTheOwnerItsRights,
  "a directory on a read-only file system is no reason to retry, and the way out is named": readOnlyIsNoReasonToRetry,
  "a directory's name that another user has taken, whatever by, is refused by client and worker": squattedDirectory,
  "a lock's name that another user has taken, whatever by, is refused, and what it leads to stays as it was": () =>
    squattedFile("lock", "PERMISSION_DENIED", () => true),
  "a socket's name that another user has taken is taken back, unless it is a directory": () =>
    squattedFile("sock", "RESOURCE", (what) => what === "a directory"),
  "another user neither joins nor sees a fleet, and a directory that he may enter is refused by ours":
    strangerStopsAtTheFleet,
  "a fleet of another user is refused, even by root, and goes on": foreignFleetIsRefused,
  "a fleet's file whose name is taken, whatever by, is refused, and what it leads to stays as it was": squattedFleet,
  "a fleet's file of another owner, or of other rights, is refused as it is": fleetThatIsNotOursAloneIsRefused,
  "the descriptors that an allowed user gets cannot be opened anew, and nobody else gets any": descriptorsAreOfNoUse,
  "another user who connects without end is refused each time, and disturbs nobody": floodDisturbsNobody,
};
