/**
 * What needs Debian's tools or root. Each check passes, fails, or lacks something; one that lacks something
 * is no success. `test/system/install.sh` installs the tools.
 */

import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Subprocess } from "bun";
import { findLibrary } from "../../src/native/find.ts";

const root = resolve(import.meta.dir, "../..");
const path = `${root}/node_modules/.bin:${process.env["PATH"]}`;
const stranger = 65534;

/** A check's precondition does not hold. */
class Lacking extends Error {}

function needTool(name: string): string {
  const found = Bun.which(name, { PATH: path });
  if (!found) throw new Lacking(`${name} is not installed`);
  return found;
}

function needRoot(): void {
  if (process.geteuid?.() !== 0) throw new Lacking("not root");
}

function expect(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** Runs a command to its end; throws with its output unless it succeeds. */
async function run(command: string[], env: Record<string, string> = {}): Promise<string> {
  const child = Bun.spawn(command, {
    cwd: root,
    env: { ...process.env, PATH: path, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const notable = (out + err).split("\n").filter((line) => !line.startsWith("ok   "));
  expect(code === 0, `${command[0]} ended with ${code}:\n${notable.slice(-60).join("\n")}`);
  return out + err;
}

// ---- the native tests, under the sanitizers ----------------------------------------------------------------

function expectTests(output: string): void {
  const passed = /^(\d+) passed, 0 failed$/m.exec(output);
  expect(Number(passed?.[1]) > 100, `no tests were counted:\n${output}`);
}

async function underGccSanitizers(): Promise<void> {
  const gcc = needTool("gcc");
  const folder = mkdtempSync(join(tmpdir(), "slotbus-system-"));
  try {
    const sources = (name: string) => readdirSync(join(root, name)).map((file) => join(root, name, file));
    const files = [...sources("csrc"), ...sources("test/native")];
    const flags =
      "-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -O1 -g -pthread " +
      "-fno-strict-aliasing -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all";
    const program = join(folder, "test-asan");
    const inputs = files.filter((file) => file.endsWith(".c") && !file.endsWith("os_macos.c"));
    await run([gcc, ...flags.split(" "), `-I${root}/csrc`, "-o", program, ...inputs]);
    expectTests(await run([program], { ASAN_OPTIONS: "detect_leaks=1", UBSAN_OPTIONS: "print_stacktrace=1" }));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function underThreadSanitizer(): Promise<void> {
  expectTests(await run([needTool("zig"), "build", "tsan"]));
}

// ---- cross builds --------------------------------------------------------------------------------------------

const ELF_MACHINES: Record<string, number> = { x86_64: 62, aarch64: 183 };
const MACHO_ARM64 = 0x0100_000c;

function checkElf(triple: string, bytes: Buffer): void {
  expect(bytes.readUInt32BE(0) === 0x7f45_4c46, `${triple}: no ELF file`);
  expect(bytes[4] === 2 && bytes[5] === 1, `${triple}: not 64-bit little-endian`);
  expect(bytes.readUInt16LE(16) === 3, `${triple}: no shared library`);
  const machine = bytes.readUInt16LE(18);
  expect(machine === ELF_MACHINES[triple.split("-")[0]!], `${triple}: built for machine ${machine}`);
  const text = bytes.toString("latin1");
  const versions = [...text.matchAll(/GLIBC_2\.(\d+)/g)].map((match) => Number(match[1]));
  if (triple.includes("musl")) expect(versions.length === 0, `${triple}: wants symbols of glibc`);
  else expect(versions.length > 0 && Math.max(...versions) <= 17, `${triple}: wants glibc 2.${Math.max(...versions)}`);
  expect(text.includes("\0sb_hub_open\0"), `${triple}: exports no sb_hub_open`);
  expect(!text.includes("\0fail_with\0"), `${triple}: exports internal functions`);
}

async function crossBuilds(): Promise<void> {
  const folder = join(root, "zig-out/cross");
  rmSync(folder, { recursive: true, force: true });
  await run([needTool("zig"), "build", "cross"]);
  const triples = readdirSync(folder).sort();
  const expected = [
    "aarch64-linux-gnu",
    "aarch64-linux-musl",
    "aarch64-macos",
    "x86_64-linux-gnu",
    "x86_64-linux-musl",
  ];
  const built = triples.map((triple) =>
    triple
      .split("-")
      .slice(0, 3)
      .join("-")
      .replace(/\.[\d.]+$/, ""),
  );
  expect(built.map((triple) => triple.replace("-macos-none", "-macos")).join() === expected.join(), `built ${triples}`);
  for (const triple of triples) {
    const [file = "", ...more] = readdirSync(join(folder, triple));
    expect(more.length === 0, `${triple}: also holds ${more}`);
    const bytes = readFileSync(join(folder, triple, file));
    expect(bytes.length < 100 * 1024, `${triple}: ${bytes.length} bytes are more than 100 KiB`);
    if (!triple.includes("macos")) checkElf(triple, bytes);
    else expect(bytes.readUInt32LE(0) === 0xfeed_facf && bytes.readUInt32LE(4) === MACHO_ARM64, `${triple}: not arm64`);
  }
}

// ---- a hub and a worker ----------------------------------------------------------------------------------------

/** A process of program.ts: what it says is read line by line. */
class Program implements AsyncDisposable {
  readonly #child: Subprocess<"pipe", "pipe", "inherit">;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #decoder = new TextDecoder();
  #rest = "";

  constructor(command: string[], env: Record<string, string> = {}) {
    const stdio: ["pipe", "pipe", "inherit"] = ["pipe", "pipe", "inherit"];
    this.#child = Bun.spawn(command, { cwd: "/", env: { ...process.env, ...env }, stdio });
    this.#chunks = this.#child.stdout[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Its next line. */
  async line(): Promise<string> {
    for (;;) {
      const end = this.#rest.indexOf("\n");
      if (end >= 0) {
        const line = this.#rest.slice(0, end);
        this.#rest = this.#rest.slice(end + 1);
        return line;
      }
      const { done, value } = await this.#chunks.next();
      if (done) return `ended with ${await this.#child.exited}`;
      this.#rest += this.#decoder.decode(value, { stream: true });
    }
  }

  async expectLine(start: string): Promise<string> {
    const line = await this.line();
    expect(line.startsWith(start), `it said "${line}", not "${start}"`);
    return line;
  }

  /** Has it carry out a command and waits until that is done. */
  async order(command: string): Promise<void> {
    this.#child.stdin.write(`${command}\n`);
    await this.#child.stdin.flush();
    await this.expectLine(`done ${command}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin.end();
    const killer = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
    await this.#child.exited;
    clearTimeout(killer);
  }
}

const program = (...words: string[]) => [process.execPath, join(import.meta.dir, "program.ts"), ...words];

/** A private directory of ours, for one hub. */
class Place implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "slotbus-system-"));
  readonly directory = join(this.folder, "bus");

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function crossBuildWorks(): Promise<void> {
  const machine = process.arch === "x64" ? "x86_64" : "aarch64";
  const musl = readFileSync("/proc/self/maps", "latin1").includes("ld-musl");
  const folders = readdirSync(join(root, "zig-out/cross"));
  const triple = folders.find((name) => name.startsWith(`${machine}-linux-${musl ? "musl" : "gnu"}`));
  const env = { SLOTBUS_LIB: join(root, "zig-out/cross", triple ?? "none", "libslotbus.so") };
  using place = new Place();
  await using hub = new Program(program("hub", place.directory), env);
  await hub.expectLine("listening");
  await using worker = new Program(program("worker", place.directory), env);
  await worker.expectLine("attached");
  await hub.expectLine("joined");
  await hub.order("go 100");
}

// ---- system calls ----------------------------------------------------------------------------------------------

/** strace on processes that run already. */
class Trace {
  readonly #file: string;
  readonly #child: Subprocess<"ignore", "ignore", "pipe">;

  private constructor(file: string, child: Subprocess<"ignore", "ignore", "pipe">) {
    this.#file = file;
    this.#child = child;
  }

  /** Resolves when strace watches every thread of the process. */
  static async attach(place: Place, pid: number, calls: string): Promise<Trace> {
    const file = join(place.folder, `trace-${pid}`);
    const child = Bun.spawn([needTool("strace"), "-f", "-o", file, "-e", `trace=${calls}`, "-p", String(pid)], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const threads = readdirSync(`/proc/${pid}/task`).length;
    void (async () => {
      let text = "";
      for await (const chunk of child.stderr) {
        text += new TextDecoder().decode(chunk);
        if (text.includes("attached") && (threads === 1 || text.includes("threads"))) resolve();
      } // to the end: strace tells of each new thread, and would die of a closed pipe
      reject(new Lacking(`strace says: ${text.trim()}`));
    })();
    await promise;
    return new Trace(file, child);
  }

  /** Ends it; the calls that began since it was attached, by name. A private futex is the engine's own. */
  async end(): Promise<Map<string, number>> {
    this.#child.kill("SIGINT");
    await this.#child.exited;
    const counts = new Map<string, number>();
    for (const line of readFileSync(this.#file, "utf8").split("\n")) {
      const call = /^\d+ +(?:\d+\.\d+ )?(\w+)\(/.exec(line)?.[1];
      if (call && !line.includes("_PRIVATE")) counts.set(call, (counts.get(call) ?? 0) + 1);
    }
    return counts;
  }
}

function total(counts: Map<string, number>): number {
  return [...counts.values()].reduce((sum, count) => sum + count, 0);
}

function show(counts: Map<string, number>): string {
  return [...counts].map(([call, count]) => `${count} ${call}`).join(", ") || "nothing";
}

const MESSAGE_CALLS = "sendto,sendmsg,recvfrom,recvmsg,read,write,writev,futex";
/** By these a thread sleeps or arms a timer. `?`: not on every machine. */
const WAIT_CALLS = "epoll_pwait2,epoll_pwait,?epoll_wait,?poll,ppoll,clock_nanosleep,timerfd_settime";

/** The system calls each process makes while `during` runs. */
async function callsOf(place: Place, processes: Program[], calls: string, during: () => Promise<void>) {
  const traces = await Promise.all(processes.map((process) => Trace.attach(place, process.pid, calls)));
  await during();
  return Promise.all(traces.map((trace) => trace.end()));
}

async function idleIsSilent(): Promise<void> {
  needTool("strace");
  using place = new Place();
  const env = { BUN_GC_TIMER_DISABLE: "1" }; // Bun's collector looks at its heap every second, and they differ
  await using bare = new Program(program("bare", place.folder), env);
  await using hub = new Program(program("hub", place.directory), env);
  await hub.expectLine("listening");
  await using worker = new Program(program("worker", place.directory), env);
  await Promise.all([worker.expectLine("attached"), hub.expectLine("joined"), bare.expectLine("waiting")]);
  await Promise.all([hub.order("go 1000"), bare.order("go 1000")]);
  let seen = "";
  let quiet = false;
  for (let round = 0; round < 5 && !quiet; round++) {
    const nothing = () => Bun.sleep(2_000); // the time in which nothing is to happen
    const [ofHub, ofWorker, ofBare] = await callsOf(
      place,
      [hub, worker, bare],
      `${MESSAGE_CALLS},${WAIT_CALLS}`,
      nothing,
    );
    seen += `\nhub: ${show(ofHub!)}; worker: ${show(ofWorker!)}; bare: ${show(ofBare!)}`;
    // Two seconds hold two or three of the wake-ups that Bun makes each second.
    const sleeps = (counts: Map<string, number>) => [...counts.keys()].every((call) => WAIT_CALLS.includes(call));
    quiet = [ofHub!, ofWorker!].every((counts) => sleeps(counts) && total(counts) <= total(ofBare!) + 1);
  }
  expect(quiet, `no 2 s of five were as quiet as a bare process:${seen}`);
  const one = await callsOf(place, [hub, worker], MESSAGE_CALLS, () => hub.order("go 1"));
  expect(
    one.every((counts) => total(counts) > 0),
    "strace sees nothing, so the silence proves nothing",
  );
}

async function busyStaysOutOfTheKernel(): Promise<void> {
  needTool("strace");
  const requests = 20_000;
  using place = new Place();
  await using hub = new Program(program("hub", place.directory));
  await hub.expectLine("listening");
  await using worker = new Program(program("worker", place.directory));
  await worker.expectLine("attached");
  await hub.expectLine("joined");
  await hub.order("go 5000"); // compiled and warm
  let seen = "";
  let rare = false;
  // Several runs: while others use the processors, spinning pays less and the sides do park.
  for (let round = 0; round < 5 && !rare; round++) {
    const work = () => hub.order(`go ${requests}`);
    const [ofHub, ofWorker] = await callsOf(place, [hub, worker], MESSAGE_CALLS, work);
    seen += `\nhub: ${show(ofHub!)}; worker: ${show(ofWorker!)}`;
    rare = [ofHub!, ofWorker!].every((counts) => [...counts.values()].every((count) => count < requests / 20));
  }
  expect(rare, `none of five runs of ${requests} requests made few calls:${seen}`);
}

// ---- another user ----------------------------------------------------------------------------------------------

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
    for (const name of ["src", "test/system/program.ts"]) {
      cpSync(join(root, name), join(this.folder, name), { recursive: true });
    }
  }

  get env(): Record<string, string> {
    return { SLOTBUS_LIB: this.#library, HOME: this.folder, BUN_INSTALL: this.folder };
  }

  program(...words: string[]): string[] {
    return [this.#bun, join(this.folder, "test/system/program.ts"), ...words];
  }

  asStranger(...words: string[]): Program {
    const command = ["--reuid", `${stranger}`, "--regid", `${stranger}`, "--clear-groups", ...this.program(...words)];
    return new Program([needTool("setpriv"), ...command], this.env);
  }

  async listen(uids: string): Promise<Program> {
    const hub = new Program(this.program("hub", this.directory, uids), this.env);
    await hub.expectLine("listening");
    return hub;
  }
}

async function strangerStopsAtTheDirectory(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using hub = await place.listen("");
  expect((statSync(place.directory).mode & 0o777) === 0o700, "the directory is not 0700");
  await using refused = place.asStranger("worker", place.directory);
  await refused.expectLine("error PermissionDeniedError");
  await using ours = new Program(place.program("worker", place.directory), place.env); // the hub is well
  await ours.expectLine("attached");
  await hub.expectLine("joined uid 0");
}

async function strangerStopsAtTheHub(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using hub = await place.listen("4242");
  expect((statSync(place.directory).mode & 0o777) === 0o711, "the directory is not 0711");
  await using refused = place.asStranger("worker", place.directory);
  const line = await refused.expectLine("error PermissionDeniedError");
  expect(line.includes(`${stranger}`), `the worker's error does not name its uid: ${line}`);
  await hub.expectLine(`refused uid ${stranger}`);
  await using ours = new Program(place.program("worker", place.directory), place.env);
  await ours.expectLine("attached");
  await hub.expectLine("joined uid 0");
}

async function allowedStrangerWorks(): Promise<void> {
  needRoot();
  using place = new PublicPlace();
  await using hub = await place.listen(`${stranger}`);
  await using worker = place.asStranger("worker", place.directory);
  await worker.expectLine("attached");
  await hub.expectLine(`joined uid ${stranger}`);
  await hub.order("go 100");
}

async function sharedDirectoryNeedsAllowedUids(): Promise<void> {
  using place = new Place();
  await run(["mkdir", "-m", "0711", place.directory]);
  await using open = new Program(program("hub", place.directory));
  await open.expectLine("error PermissionDeniedError");
  chmodSync(place.directory, 0o700);
  await using closed = new Program(program("hub", place.directory));
  await closed.expectLine("listening");
}

async function foreignDirectoryIsRefused(): Promise<void> {
  needRoot();
  using place = new Place();
  await run(["mkdir", "-m", "0700", place.directory]);
  chownSync(place.directory, stranger, stranger);
  await using hub = new Program(program("hub", place.directory));
  await hub.expectLine("error PermissionDeniedError");
}

// ---- memory ----------------------------------------------------------------------------------------------------

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
  await using hub = new Program(group.inside(program("hub", place.directory, "", warm)));
  await hub.expectLine("listening");
  await using refused = new Program(program("worker", place.directory));
  await refused.expectLine("error ResourceError");
  const line = await hub.expectLine("refused uid"); // it lives, and says why
  expect(line.includes("memory"), `the hub's reason is not memory: ${line}`);

  using elsewhere = new Place();
  await using free = new Program(program("hub", elsewhere.directory, "", warm));
  await free.expectLine("listening");
  await using worker = new Program(program("worker", elsewhere.directory));
  await worker.expectLine("attached");
}

// ---- the run ---------------------------------------------------------------------------------------------------

const checks: Record<string, () => Promise<void>> = {
  "the native tests pass under gcc's AddressSanitizer and UndefinedBehaviorSanitizer": underGccSanitizers,
  "the native tests pass under ThreadSanitizer": underThreadSanitizer,
  "each cross build is a small library for its machine and C library": crossBuilds,
  "the cross build for this machine carries requests": crossBuildWorks,
  "an idle hub and an idle worker make no system call that a Bun process with a socket does not make": idleIsSilent,
  "a busy hub and a busy worker make less than one system call per 20 requests": busyStaysOutOfTheKernel,
  "another user stops at the hub's private directory": strangerStopsAtTheDirectory,
  "another user that may enter the directory is refused by the hub, by uid": strangerStopsAtTheHub,
  "another user whose uid is allowed attaches and answers": allowedStrangerWorks,
  "a directory that others may enter is refused by a hub that allows no other user": sharedDirectoryNeedsAllowedUids,
  "a directory of another user is refused, even by root": foreignDirectoryIsRefused,
  "a memory cgroup without room for a region is an error, not the end of the hub": memoryLimitIsAnError,
};

const counts = { passed: 0, failed: 0, lacking: 0 };
for (const [sentence, check] of Object.entries(checks)) {
  if (!sentence.includes(process.argv[2] ?? "")) continue;
  const start = performance.now();
  let verdict: keyof typeof counts = "passed";
  let why = "";
  try {
    await check();
  } catch (error) {
    verdict = error instanceof Lacking ? "lacking" : "failed";
    why = `\n     ${(error as Error).message.replaceAll("\n", "\n     ")}`;
  }
  counts[verdict]++;
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  process.stdout.write(`${verdict.padEnd(7)} ${sentence} (${seconds} s)${why}\n`);
}
const lacking = counts.lacking > 0 ? `, ${counts.lacking} lacking` : "";
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed${lacking}\n`);
process.exit(counts.failed + counts.lacking > 0 || counts.passed === 0 ? 1 : 0);
