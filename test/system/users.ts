/** Another user: not allowed, allowed, or owner of a name before us. */

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

/** A place that another user may read: it has copies of the program, the library and Bun. */
class PublicPlace extends Place {
  readonly #bun = join(this.folder, "bun");
  readonly #library = join(this.folder, "libslotbus.so");

  constructor() {
    super();
    chmodSync(this.folder, 0o755);
    cpSync(process.execPath, this.#bun, { dereference: true });
    chmodSync(this.#bun, 0o755);
    cpSync(findLibrary(), this.#library, { dereference: true });
    for (const name of ["src", ...["program", "orders", "member"].map((file) => `test/system/${file}.ts`)]) {
      cpSync(join(root, name), join(this.folder, name), { recursive: true });
    }
  }

  get env(): Record<string, string> {
    return { SLOTBUS_LIB: this.#library, HOME: this.folder, BUN_INSTALL: this.folder };
  }

  program(...words: string[]): string[] {
    return [this.#bun, join(this.folder, "test/system/program.ts"), ...words];
  }

  /** Starts the program as another user; `before` is a command that runs it. */
  asStranger(before: string[], ...words: string[]): Program {
    return new Program(this.#strange(words, before), this.env);
  }

  /** Starts a member that has not joined. */
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
  await using ours = new Program(place.program("worker", place.directory), place.env); // the client still works
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
  expect(line.includes(`belongs to uid ${stranger} (`), `the error does not name the owner: ${line}`);
  expect(line.includes("Set SLOTBUS_DIR"), `the error does not say what to do: ${line}`);
}

/** Root ignores modes, so this runs as another user. */
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

/** The directory would be on a file system that nobody can write to. */
async function readOnlyIsNotRetryable(): Promise<void> {
  needRoot();
  using place = new Place();
  const script = 'mount -t tmpfs -o ro,mode=0755 slotbus "$0" && exec "$@"';
  const inside = [needTool("unshare"), "--mount", "sh", "-c", script, place.folder];
  await using client = new Program([...inside, ...program("client", place.directory)]);
  const line = await client.expectLine("error RESOURCE");
  const said = line.includes("read-only file system (EROFS)") && line.includes("Set SLOTBUS_DIR");
  expect(said && !line.endsWith("[retryable]"), `the client says: ${line}`);
}

// ---- names that another user took first ------------------------------------------------------------------------

/** Runs a shell script as another user, or as ourselves. */
async function shell(script: string, folder: string, uid = stranger): Promise<string> {
  const identity = ["--reuid", `${uid}`, "--regid", `${uid}`, "--clear-groups"];
  return run([needTool("setpriv"), ...identity, "sh", "-c", `cd "$0" && ${script}`, folder]);
}

/** Things that can exist in place of our file, with the commands that make them. `victim` is a file that must not change. */
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

/** Files in our own directory that another user made, or linked elsewhere, while the directory was open to all. */
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
  // A directory of mode 0711 lets the other user no further than the private directory.
  for (const mode of [0o700, 0o711]) {
    chmodSync(place.directory, mode);
    for (const command of ["join", "observe"]) {
      const line = await refused.answer(command, "error ");
      expect(/^error (PERMISSION_DENIED|RESOURCE): /.test(line), `another user gets: ${line}`);
    }
  }
  await one.refused(DENIED); // our directory, but open to others
  chmodSync(place.directory, 0o700);
  expect((statSync(join(place.directory, FILE)).mode & 0o7777) === 0o600, "the file is not 0600");
  await using other = await place.member("ours");
  await other.join();
  await expectWell(one, other);
}

async function foreignFleetIsRefused(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  const directory = join(place.folder, "theirs");
  await run(["mkdir", "-m", "0700", directory]);
  chownSync(directory, stranger, stranger);
  await using theirs = await place.member("stranger", directory);
  const { epoch } = await theirs.join();
  await using root = await place.member("ours", directory);
  for (const command of ["join", "observe"]) await root.refused(DENIED, command);
  await using heir = await place.member("stranger", directory);
  expect((await heir.join()).epoch === epoch, "the other user's fleet was replaced");
  await expectWell(theirs, heir);
}

/** Before any member joins, another user or root creates something under the file's name. */
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

/** A fleet file that was given to another user, or opened to others, after its members died is refused and not changed. */
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
    expect(readFileSync(file).equals(bytes), "a member wrote to a file that it refused");
    mend();
  }
  expect((await member.join()).epoch > epoch, "the next epoch is not later");
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
  // An allowed user may write to its region, not to the statistics.
  expect(texts.includes(`region ${nothing} written 1\n`), `what the region allowed: ${texts}`);
  expect(texts.includes(`statistics ${nothing} written 0\n`), `what the statistics allowed: ${texts}`);

  // A user without a descriptor cannot even list them. We can attach, so there is something to reach.
  const reopen = `cat /proc/${client.pid}/fd/* 2>&1 >/dev/null; ls /proc/${client.pid}/fd /proc/${client.pid}/map_files 2>&1 || true`;
  const seen = await shell(reopen, "/");
  expect(!/^\d+$/m.test(seen) && seen.includes("Permission denied"), `another user sees: ${seen}`);
  await using ours = new Program(place.program("worker", place.directory), place.env);
  await ours.expectLine("attached");
  await client.order("go 100");
}

async function floodDisturbsNobody(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using client = await place.listen("4242"); // opens the directory
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
  expect(Number(line.split(" ")[1]) > 100, `too few refusals: ${line}`);
}

export const checks: Checks = {
  "another user cannot enter the client's private directory": strangerStopsAtTheDirectory,
  "the client refuses a user that may enter the directory but whose uid is not allowed": strangerStopsAtTheClient,
  "another user whose uid is allowed attaches and answers": allowedStrangerWorks,
  "a client that allows no other user refuses a directory that others may enter": sharedDirectoryNeedsAllowedUids,
  "another user's directory is refused, even by root; the error names its owner and what to do":
    foreignDirectoryIsRefused,
  "under umask 0777 a user other than root can create a directory and a bus in it": umaskLeavesTheOwnerItsRights,
  "the error for a read-only file system is not retryable and says what to do": readOnlyIsNotRetryable,
  "client and worker refuse a directory whose name another user has taken with a file, link or directory":
    squattedDirectory,
  "a client refuses a lock whose name another user has taken, and does not change the target of a link": () =>
    squattedFile("lock", "PERMISSION_DENIED", () => true),
  "a client takes back a socket's name that another user has taken, unless it is a directory": () =>
    squattedFile("sock", "RESOURCE", (what) => what === "a directory"),
  "another user can neither join nor observe a fleet, and a member refuses a directory that others may enter":
    strangerStopsAtTheFleet,
  "another user's fleet is refused, even by root, and continues": foreignFleetIsRefused,
  "a member refuses a fleet file whose name is taken, and does not change the target of a link": squattedFleet,
  "a fleet file of another owner or mode is refused and not changed": fleetThatIsNotOursAloneIsRefused,
  "an allowed user cannot reopen the descriptors that it gets, and no other user gets any": descriptorsAreOfNoUse,
  "another user that connects endlessly is refused each time and disturbs nobody": floodDisturbsNobody,
};
