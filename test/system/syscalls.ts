/**
 * Each system call of the library fails once, at its n-th time, for every n and every error that fits, or its process is
 * killed there. Each allocation fails in the same way. First with the client, worker and fleet of life/, in C, which make only the library's calls; then with Bun.
 */

import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { findLibrary } from "../../src/native/find.ts";
import { type Checks, expect, needTool, note, Place, Program, program } from "./checks.ts";
import { expectWell, Member } from "./fleet.ts";
import { buildLife, Couple, type Role } from "./life.ts";

const OPEN = ["EMFILE", "ENFILE", "ENOMEM", "EINTR", "EPERM"];
const SEND = ["EAGAIN", "EPIPE", "ECONNRESET", "ENOMEM", "ENOBUFS", "EINTR"];

/**
 * The library's system calls, and the errors that each can return. A call without errors cannot fail, or (close, munmap)
 * takes effect on Linux although it fails; there the process is only killed.
 */
const CALLS: Record<Role, Record<string, string[]>> = {
  client: {
    mkdir: ["ENOSPC", "ENOMEM", "EPERM"],
    openat: OPEN,
    fchmod: ["EPERM", "EINTR"],
    newfstatat: ["ENOMEM"],
    fcntl: ["EAGAIN", "ENOLCK", "EINTR", "EPERM"],
    ftruncate: ["ENOSPC", "ENOMEM", "EFBIG", "EINTR"],
    pwrite64: ["ENOSPC", "EINTR"],
    unlinkat: ["EPERM"],
    socket: ["EMFILE", "ENFILE", "ENOMEM", "EPERM"],
    connect: ["EAGAIN", "EPERM", "ENOMEM"],
    fchmodat: ["EPERM", "ENOMEM"],
    renameat: ["EPERM", "ENOMEM", "ENOSPC"],
    prlimit64: ["EPERM"],
    memfd_create: ["EMFILE", "ENFILE", "ENOMEM", "EPERM"],
    mmap: ["ENOMEM", "EPERM"],
    madvise: ["ENOMEM", "EAGAIN", "EINTR"],
    sendmsg: [...SEND, "ETOOMANYREFS"],
    getsockopt: ["EMFILE", "ENOMEM", "ENOPROTOOPT", "ESRCH"],
    poll: ["EINTR", "ENOMEM"],
    read: ["EINTR", "ENOMEM"],
    futex: ["EINTR", "EAGAIN"],
    sendto: SEND,
    pread64: ["EINTR", "ESRCH"],
    sched_getaffinity: ["EPERM"],
    sched_setaffinity: ["EPERM", "ENOMEM"],
    sched_yield: [],
    geteuid: [],
    getpid: [],
    munmap: [],
    close: [],
  },
  worker: {
    openat: OPEN,
    newfstatat: ["ENOMEM"],
    socket: ["EMFILE", "ENFILE", "ENOMEM", "EPERM"],
    connect: ["EAGAIN", "EINTR", "ECONNREFUSED", "EPERM", "ENOMEM"],
    sendto: SEND,
    recvmsg: ["EAGAIN", "EINTR", "ECONNRESET", "ENOMEM", "EMFILE"],
    recvfrom: ["EAGAIN", "EINTR", "ECONNRESET", "ENOMEM"],
    pread64: ["EINTR", "ENOMEM"],
    fcntl: ["EPERM"],
    mmap: ["ENOMEM", "EPERM"],
    madvise: ["ENOMEM", "EAGAIN", "EINTR"],
    futex: ["EINTR", "EAGAIN"],
    poll: ["EINTR", "ENOMEM"],
    sched_getaffinity: ["EPERM"],
    sched_setaffinity: ["EPERM", "ENOMEM"],
    sched_yield: [],
    geteuid: [],
    munmap: [],
    close: [],
  },
  shared: {
    mkdir: ["ENOSPC", "ENOMEM", "EPERM"],
    openat: OPEN,
    newfstatat: ["ENOMEM"],
    getrandom: ["EINTR"],
    socket: ["EMFILE", "ENFILE", "ENOMEM", "EPERM"],
    bind: ["ENOSPC", "EPERM", "ENOMEM"],
    connect: ["EAGAIN", "EPERM", "ENOMEM"],
    fchmodat: ["EPERM", "ENOMEM"],
    renameat: ["EPERM", "ENOMEM", "ENOSPC"],
    fcntl: ["EAGAIN", "ENOLCK", "EINTR", "EPERM"],
    fchmod: ["EPERM", "EINTR"],
    ftruncate: ["ENOSPC", "ENOMEM", "EFBIG", "EINTR"],
    getdents64: ["ENOMEM", "EINTR"],
    sendto: SEND,
    poll: ["EINTR", "ENOMEM"],
    recvfrom: ["EAGAIN", "EINTR", "ENOMEM"],
    unlinkat: ["EPERM"],
    geteuid: [],
    close: [],
  },
  hosts: {},
  blocking: {
    openat: OPEN,
    newfstatat: ["ENOMEM"],
    getrandom: ["EINTR"],
    socket: ["EMFILE", "ENFILE", "ENOMEM", "EPERM"],
    bind: ["ENOSPC", "EPERM", "ENOMEM"],
    connect: ["EAGAIN", "EINTR", "ECONNREFUSED", "EPERM", "ENOMEM"],
    fchmodat: ["EPERM", "ENOMEM"],
    renameat: ["EPERM", "ENOMEM", "ENOSPC"],
    sendto: SEND,
    recvmsg: ["EAGAIN", "EINTR", "ECONNRESET", "ENOMEM", "EMFILE"],
    recvfrom: ["EAGAIN", "EINTR", "ECONNRESET", "ENOMEM"],
    pread64: ["EINTR", "ENOMEM"],
    fcntl: ["EPERM"],
    mmap: ["ENOMEM", "EPERM"],
    madvise: ["ENOMEM", "EAGAIN", "EINTR"],
    poll: ["EINTR", "ENOMEM"],
    unlinkat: ["EPERM"],
    clock_nanosleep: ["EINTR"],
    sched_getaffinity: ["EPERM"],
    sched_yield: [],
    geteuid: [],
    munmap: [],
    close: [],
  },
  bridge: {
    socketpair: ["EMFILE", "ENFILE", "ENOMEM"],
    mmap: ["ENOMEM"],
    mprotect: ["ENOMEM"],
    clone3: ["EAGAIN", "ENOMEM"],
    sendto: ["EAGAIN", "EINTR", "ENOMEM"],
    rt_sigprocmask: [],
    rt_sigaction: [],
    set_robust_list: [],
    rseq: [],
    futex: [],
    madvise: [],
    exit: [],
    close: [],
  },
  fleet: {
    mkdir: ["ENOSPC", "ENOMEM", "EPERM"],
    openat: OPEN,
    newfstatat: ["ENOMEM"],
    fcntl: ["EAGAIN", "ENOLCK"],
    flock: ["EINTR", "ENOLCK"],
    fchmod: ["EPERM", "EINTR"],
    fstatfs: ["EINTR", "ENOSYS"],
    fallocate: ["ENOSPC", "EFBIG", "ENOMEM", "EINTR", "EOPNOTSUPP", "EPERM"],
    pwrite64: ["ENOSPC", "EINTR"],
    pread64: ["EINTR", "ENOMEM"],
    mmap: ["ENOMEM", "EPERM"],
    madvise: ["ENOMEM", "EAGAIN", "EINTR"],
    renameat2: ["ENOSPC", "EINTR", "EPERM"],
    renameat: ["ENOSPC", "EINTR", "EPERM"],
    unlinkat: ["EPERM"],
    getdents64: ["ENOMEM", "EINTR"],
    prlimit64: ["EPERM"],
    pidfd_open: ["EMFILE", "ENFILE", "ENOMEM", "ENOSYS"],
    poll: ["EINTR", "ENOMEM"],
    futex: [],
    geteuid: [],
    getpid: [],
    munmap: [],
    close: [],
  },
  memory: {
    openat: OPEN,
    read: ["EINTR", "ENOMEM"],
    memfd_create: ["EMFILE", "ENFILE", "ENOMEM", "EPERM"],
    fchmod: ["EPERM", "EINTR"],
    ftruncate: ["ENOSPC", "ENOMEM", "EFBIG", "EINTR"],
    newfstatat: ["ENOMEM"],
    fcntl: ["EAGAIN", "ENOLCK"],
    pwrite64: ["ENOSPC", "EINTR"],
    pread64: ["EINTR", "ENOMEM"],
    mmap: ["ENOMEM", "EPERM"],
    madvise: ["ENOMEM", "EAGAIN", "EINTR"],
    prlimit64: ["EPERM"],
    geteuid: [],
    getpid: [],
    munmap: [],
    close: [],
  },
};

/** Allocators that the library calls in each role, itself or by the C library. Each of their calls fails once. */
const ALLOCATORS: Record<Role, string[]> = {
  client: ["malloc", "calloc"],
  worker: ["calloc"],
  shared: ["malloc", "calloc"],
  hosts: [],
  blocking: ["malloc", "calloc"],
  bridge: ["calloc"],
  fleet: ["malloc", "calloc", "realloc"],
  memory: ["malloc", "calloc", "realloc"],
};
const isAllocator = (call: string) => call.endsWith("alloc") && call !== "fallocate";

/** Calls that are retried, or whose failure only delays, when they return EINTR or EAGAIN. */
const PATIENT = ["sendto", "recvmsg", "recvfrom", "connect", "futex", "poll", "madvise", "read", "write"];
/** Calls with which the C library starts a thread. The main thread makes them too, so no n selects the second thread. */
const UNREACHED = ["rseq", "set_robust_list"];
const LANES = 3;

/** Counts each call: before the library's first call, and by the library. */
function readTrace(file: string): Map<string, { before: number; ours: number }> {
  const seen = new Map<string, { before: number; ours: number }>();
  let started = false;
  let inside = false;
  let main = "";
  for (const line of readFileSync(file, "utf8").split("\n")) {
    const [, thread = "", call] = /^(\d+) +(\w+)\(/.exec(line) ?? [];
    if (!call) continue;
    main ||= thread;
    if (call === "getpgid") {
      started = true;
      inside = line.includes("(-1");
      continue;
    }
    const counts = seen.get(call) ?? { before: 0, ours: 0 };
    if (!started) counts.before++;
    else if (inside || thread !== main) counts.ours++; // a second thread is the library's
    seen.set(call, counts);
  }
  return seen;
}

// ---- each call, each error, each time ------------------------------------------------------------------------

interface Chain {
  role: Role;
  call: string;
  /** `ENOMEM`, …, or `KILL`. */
  fault: string;
  /** How often the call is made before the library makes it. */
  before: number;
  /** The last n; none: until the call is not made that often. */
  last?: number | undefined;
}

/** Whether a life may leave this file: it must not remove a lock that it does not hold. */
function mayLeave({ role, call, fault }: Chain, file: string): boolean {
  if (role === "fleet") {
    if (fault === "KILL") return /^life\.fleet(\.\d+\.[0-9a-f]{16})?$/.test(file);
    return ["fcntl", "newfstatat", "unlinkat"].includes(call) && file === "life.fleet"; // an orphan for the next fleet
  }
  if (role === "shared") {
    const isKnown = /^life(\.lock|@0\.(sock|new)|@[0-9a-f]{16}\.(door|new))$/.test(file);
    if (fault === "KILL" || call === "unlinkat") return isKnown;
    return (call === "fcntl" || call === "newfstatat") && file === "life.lock";
  }
  if (role !== "client") return false;
  if (fault === "KILL" || call === "unlinkat") return /^life\.(lock|sock|new)$/.test(file);
  return (call === "fcntl" || call === "newfstatat") && file === "life.lock";
}

/** Fails the call at its first time, its second, … until it is not made that often. Resolves to how often it was made. */
async function runChain(chain: Chain, couple: Couple, outcomes: Map<string, number>): Promise<number> {
  const { role, call, fault, before, last = Infinity } = chain;
  const injection = fault === "KILL" ? "signal=KILL" : `error=${fault}`;
  for (let n = 1; n <= last; n++) {
    const what = `${role}, ${call} ${n}, ${fault}`;
    const strace = ["-e", `trace=${call}`, "-e", `inject=${call}:${injection}:when=${before + n}`];
    rmSync(couple.trace, { force: true });
    const endings = await couple.live(role, isAllocator(call) ? { allocation: [call, n] } : { strace });
    const trace = readFileSync(couple.trace, "utf8");
    const met = fault === "KILL" ? trace.includes("killed by SIGKILL") : trace.includes("(INJECTED)");
    for (const [who, { text, code }] of Object.entries(endings)) {
      const victim = met && fault === "KILL" && who === role;
      const end = /^end (.*) fds (-?\d+) maps (\d+) blocks (-?\d+)$/m.exec(text);
      if (victim) {
        expect(code === "SIGKILL" && !end, `${what}: the ${who} was not killed: ${code} ${text}`);
        continue;
      }
      expect(code === 0 && end !== null, `${what}: the ${who} ended with ${code}: ${text}`);
      const [, result = "", fds, maps, blocks] = end!;
      const left = `${fds} descriptors, ${maps} mappings and ${blocks} blocks of the heap`;
      expect(!result.includes("undocumented"), `${what}: the ${who} says ${result}`);
      expect(fds === "0" && maps === "0" && blocks === "0", `${what}: the ${who} leaves ${left}`);
      expect(met || result === "ok", `${what}: the fault was not met, but the ${who} says ${result}`);
      const isProbe = call === "connect" && role !== "worker"; // a full backlog says that the name is in use
      const passing = (fault === "EINTR" || fault === "EAGAIN") && PATIENT.includes(call) && !isProbe;
      expect(!passing || who !== role || result === "ok", `${what}: the ${who} gave up with ${result}`);
      if (met) outcomes.set(result.split(" ")[0]!, (outcomes.get(result.split(" ")[0]!) ?? 0) + 1);
    }
    const left = couple.files.filter((file) => !met || !mayLeave(chain, file));
    expect(left.length === 0, `${what}: ${left} is left`);
    if (!met) return n - 1;
    await couple.expectClean(role, `after ${what}`);
  }
  return last;
}

/** Runs all chains, a few at a time. Resolves to how often each fault was met. */
async function runChains(chains: Chain[], life: string, folder: string): Promise<Map<Chain, number>> {
  const met = new Map<Chain, number>();
  const outcomes = new Map<string, number>();
  const waiting = chains.slice();
  const lane = async (number: number): Promise<void> => {
    const couple = new Couple(life, join(folder, `lane-${number}`));
    for (let chain = waiting.shift(); chain; chain = waiting.shift()) {
      met.set(chain, await runChain(chain, couple, outcomes));
    }
  };
  try {
    await Promise.all(Array.from({ length: LANES }, (_, number) => lane(number)));
  } finally {
    waiting.length = 0; // the other lanes stop too
  }
  note(`endings: ${[...outcomes].map(([result, count]) => `${count} ${result}`).join(", ")}`);
  return met;
}

/** Prints one line per call with how often it met each fault. Fails if a fault was never met. */
function showHistogram(met: Map<Chain, number>): void {
  const rows = new Map<string, string[]>();
  let total = 0;
  for (const [{ role, call, fault }, count] of met) {
    const row = `${role} ${call}`;
    rows.set(row, [...(rows.get(row) ?? []), `${fault} ${count}`]);
    total += count;
  }
  note([...rows].map(([row, cells]) => `${row.padEnd(24)} ${cells.join(", ")}`).join("\n"));
  note(`${total} faults met, in ${met.size} cells`);
  const empty = [...met]
    .filter(([, count]) => count === 0)
    .map(([{ role, call, fault }]) => `${role} ${call} ${fault}`);
  expect(empty.length === 0, `never met: ${empty.join(", ")}`);
}

type Faults = (errors: string[]) => string[];
const asListed: Faults = (faults) => faults;
const onlyKill: Faults = () => ["KILL"];
const BUS = ["client", "worker", "shared", "blocking", "bridge"] as const;
const FLEET = ["fleet", "memory"] as const;

function expectSame(seen: string[], listed: string[], role: Role): void {
  const [more, less] = [seen.filter((call) => !listed.includes(call)), listed.filter((call) => !seen.includes(call))];
  expect(more.length + less.length === 0, `the ${role} also makes: ${more}; does not make: ${less}`);
}

type MakeChains = (life: string, folder: string) => Promise<Chain[]>;

/** Makes the chains of the table {@link CALLS}, after it has compared the table with the calls of the library. */
const systemCalls =
  (roles: readonly Role[], faultsOf: Faults, isBounded = false): MakeChains =>
  async (life, folder) => {
    const chains: Chain[] = [];
    const couple = new Couple(life, join(folder, "whole"));
    for (const role of roles) {
      await couple.live(role, { strace: [] });
      const seen = readTrace(couple.trace);
      const ours = [...seen].filter(([, counts]) => counts.ours > 0).map(([call]) => call);
      expectSame(ours, Object.keys(CALLS[role]), role);
      for (const [call, errorsOfCall] of Object.entries(CALLS[role])) {
        const { before, ours: times } = seen.get(call)!;
        if (UNREACHED.includes(call)) continue;
        const last = isBounded ? times : undefined;
        for (const fault of faultsOf(errorsOfCall)) chains.push({ role, call, fault, before, last });
      }
    }
    return chains;
  };

/** The same for the allocators. */
const allocations: MakeChains = async (life, folder) => {
  const chains: Chain[] = [];
  const couple = new Couple(life, join(folder, "whole"));
  for (const role of [...BUS, ...FLEET]) {
    rmSync(couple.trace, { force: true });
    await couple.live(role, { allocation: ["none", 0] });
    const seen = readFileSync(couple.trace, "utf8").matchAll(/^1 (\w+)\(/gm);
    expectSame([...new Set([...seen].map(([, call]) => call!))], ALLOCATORS[role], role);
    for (const call of ALLOCATORS[role]) chains.push({ role, call, fault: "ENOMEM", before: 0 });
  }
  return chains;
};

async function everyChain(chainsFor: MakeChains): Promise<void> {
  needTool("strace");
  using place = new Place();
  const life = await buildLife(place.folder);
  showHistogram(await runChains(await chainsFor(life, place.folder), life, place.folder));
}

/**
 * Every allocation and system call fails as in the checks, except that no n is above the number of calls in a life without
 * a fault: what the program does at its end, for `more` options of gcc, is left alone. Builds the program in `folder`.
 */
export async function everyFailure(folder: string, more: string[]): Promise<void> {
  needTool("strace");
  using place = new Place();
  const life = await buildLife(folder, more);
  const chains = await allocations(life, place.folder);
  for (const roles of [BUS, FLEET]) chains.push(...(await systemCalls(roles, asListed, true)(life, place.folder)));
  showHistogram(await runChains(chains, life, place.folder));
}

// ---- the same with Bun -----------------------------------------------------------------------------------------

/** Calls whose failure reaches the TypeScript side, or that Bun makes for it. The process is also killed at each of them. */
const BUN_CALLS: Record<"client" | "worker", Record<string, string[]>> = {
  client: {
    memfd_create: ["EMFILE", "ENOMEM"],
    ftruncate: ["ENOSPC"],
    getsockopt: ["EMFILE"],
    bind: ["ENOSPC", "EPERM"],
    listen: ["ENOMEM"],
    fchmodat: ["EPERM"],
    unlinkat: ["EPERM"],
    accept4: ["ECONNABORTED", "EMFILE"],
    sendmsg: ["EAGAIN", "EPIPE", "ENOMEM", "ETOOMANYREFS"],
    sendto: [], // standard input and output of its own are sockets too
  },
  worker: {
    socket: ["EMFILE"],
    sendto: [],
    recvfrom: [],
    connect: ["EAGAIN", "ECONNREFUSED", "EPERM"],
    recvmsg: ["EAGAIN", "ECONNRESET", "ENOMEM"],
  },
};

/** As {@link BUN_CALLS}, for a worker with a session with each of two clients that share a name. */
const SHARED_CALLS: Record<"worker", Record<string, string[]>> = {
  worker: {
    socket: ["EMFILE"],
    bind: ["ENOSPC", "EPERM"],
    renameat: ["ENOSPC", "EPERM"],
    unlinkat: ["EPERM"],
    sendto: [],
    recvfrom: [],
    connect: ["EAGAIN", "ECONNREFUSED", "EPERM"],
    recvmsg: ["EAGAIN", "ECONNRESET", "ENOMEM"],
  },
};

/** As {@link BUN_CALLS}, for the member that makes the fleet and the member that joins it. */
const FLEET_CALLS: Record<"first" | "second", Record<string, string[]>> = {
  first: {
    fallocate: ["ENOSPC", "EFBIG", "EINTR"],
    pwrite64: ["ENOSPC"],
    renameat2: ["ENOSPC", "EPERM"],
    unlinkat: ["EPERM"],
    socketpair: ["EMFILE", "ENOMEM"],
  },
  second: {
    socketpair: ["EMFILE", "ENOMEM"],
    pidfd_open: ["EMFILE", "ENOSYS"],
  },
};

/** Whether a line reports success or a typed error. */
function isGoodOrTyped(line: string, good: string): boolean {
  return line.startsWith(good) || /^error [A-Z_]+: /.test(line);
}

/** The survivor is checked here too. Nothing is expected of a process that `isKilled`. */
type Meet<Role> = (place: Place, role: Role, strace: string[], isKilled: boolean) => Promise<string>;

/** Runs a client and a worker of program.ts, one of them with a fault. Resolves to the outcome. */
const meetInBun: Meet<"client" | "worker"> = async (place, role, strace, isKilled) => {
  const command = (who: "client" | "worker") => [...(who === role ? strace : []), ...program(who, place.directory)];
  await using client = new Program(command("client"));
  const isGood = (line: string, good: string) => isGoodOrTyped(line, good) || (isKilled && line.startsWith("ended"));
  const first = await client.line();
  expect(isGood(first, "listening"), `the client says: ${first}`);
  if (first !== "listening") return first.split(":")[0]!;
  await using worker = new Program(command("worker"));
  const second = await worker.line();
  if (isKilled && role === "client") return second;
  expect(isGood(second, "attached"), `the worker says: ${second}`);
  if (second === "attached" && !isKilled) {
    await client.order("go 3");
    return "attached";
  }
  await using heir = new Program(program("worker", place.directory)); // the client still works
  await heir.expectLine("attached");
  await client.order("go 3");
  return second.split(":")[0]!;
};

/**
 * Two clients that share a name, and a worker with a fault. A client without a session with it gets the worker's heir. A request
 * that the worker had when it was killed fails with an error that says so. In the end each client is served, by the heir alone.
 */
const meetTwoClients: Meet<"worker"> = async (place, _role, strace, isKilled) => {
  await using first = new Program(program("sharer", place.directory));
  await first.expectLine("listening");
  await using second = new Program(program("sharer", place.directory));
  await second.expectLine("listening");
  const both = (command: string): Promise<unknown> =>
    Promise.all([first, second].map((client) => client.order(command)));
  await using worker = new Program([...strace, ...program("worker", place.directory)]);
  const said = await worker.line();
  const isGood = isGoodOrTyped(said, "attached") || (isKilled && said.startsWith("ended"));
  expect(isGood, `the worker says: ${said}`);
  // With `refused` it says which client it could not attach to. It ends before a client gives up.
  const refused = worker.lineFrom("error").catch(() => "ended");
  const served = said === "attached" && !isKilled ? both("go 3").then(() => "attached") : null;
  const outcome = served ? await Promise.race([served, refused]) : said.split(":")[0]!;
  await using heir = new Program(program("worker", place.directory));
  await heir.expectLine("attached");
  await served;
  if (isKilled) {
    for (const client of [first, second]) {
      await client.tell("ask /echo - 10000");
      const asked = await client.lineFrom("asked");
      expect(/^asked \d+ (WORKER_DIED (true|false))?$/.test(asked), `a client says: ${asked}`);
    }
  }
  await worker[Symbol.asyncDispose](); // it may be killed while it closes
  await both("go 3");
  return outcome.split(":")[0]!;
};

/** Sends a member a command that may fail with a typed error; if it does, a second attempt must succeed. Resolves to the first outcome. */
async function tryTwice(member: Member, command: string, start: string): Promise<string> {
  const answer = await member.answer(command, "");
  const first = answer.split(":")[0]!;
  expect(isGoodOrTyped(answer, start), `${command} ends with: ${answer}`);
  if (!first.startsWith(start)) await member.answer(command, start);
  return first.startsWith(start) ? start : first;
}

/** Two members join, send each other an event, wait for each other's lease, and leave. Resolves to the first error. */
const meetInAFleet: Meet<"first" | "second"> = async (place, role, strace, isKilled) => {
  const start = (who: string) => {
    const command = program("member", place.directory);
    return Member.start(who === role ? [...strace, ...command] : command);
  };
  await using first = await start("first");
  await using second = await start("second");
  const outcomes: string[] = [];
  const use = async (): Promise<void> => {
    outcomes.push(await tryTwice(first, "join", "joined"), await tryTwice(second, "join", "joined"));
    for (const [holder, waiter] of [
      [first, second],
      [second, first],
    ] as const) {
      const label = `of-${holder.pid}`;
      await holder.claim(label);
      outcomes.push(await tryTwice(waiter, `hear ${label}`, "hearing"));
      await holder.order("publish 1");
      await waiter.lineFrom("event");
      await holder.release(label);
      await waiter.lineFrom(`won ${label}`);
    }
    await expectWell(first, second);
  };
  if (!isKilled) await use();
  else {
    await use().catch(() => {}); // where it was killed; the other one goes on
    const other = role === "first" ? second : first;
    await using heir = await start("heir");
    if (outcomes.length < 2) await other.join();
    await heir.join();
    await expectWell(other, heir);
  }
  return outcomes.find((outcome) => outcome.startsWith("error")) ?? "attached";
};

/** As {@link runChain}, with two processes that `meet`. Resolves to a line with each outcome. */
async function runBunChain(
  place: Place,
  [role, call, fault]: readonly [string, string, string],
  meet: (strace: string[], isKilled: boolean) => Promise<string>,
): Promise<string> {
  const isKill = fault === "KILL";
  const trace = join(place.folder, "trace");
  const outcomes: string[] = [];
  for (let n = 1; ; n++) {
    const inject = ["-e", `trace=${call}`, "-e", `inject=${call}:${isKill ? "signal" : "error"}=${fault}:when=${n}`];
    rmSync(trace, { force: true });
    const fast = isKill ? [] : ["--seccomp-bpf"]; // with it strace sends no signal
    const strace = [needTool("strace"), "-f", "-qq", ...fast, "-o", trace, ...inject];
    const outcome = await meet(strace, isKill).catch((error: Error) => {
      throw new Error(`${role}, ${call} ${n}, ${fault}: ${error.message}`);
    });
    if (!/\(INJECTED\)|killed by SIGKILL/.test(readFileSync(trace, "utf8"))) {
      expect(
        outcome === "attached",
        `${role}, ${call} ${n}, ${fault}: the fault was not met, but the outcome is ${outcome}`,
      );
      expect(n > 1, `${role}, ${call}, ${fault}: never met`);
      return `${role} ${call} ${fault}: ${outcomes.join(", ")}`;
    }
    if (isKill) expect((await meet([], false)) === "attached", `${role}, ${call} ${n}: its successor does not do`);
    outcomes.push(isKill ? "killed" : outcome);
  }
}

async function callsFailInBun<Role extends string>(
  calls: Record<Role, Record<string, string[]>>,
  meet: Meet<Role>,
): Promise<void> {
  needTool("strace");
  findLibrary(); // builds the library now: a build under strace would meet the faults
  const waiting: (() => Promise<void>)[] = [];
  for (const role of Object.keys(calls) as Role[]) {
    for (const [call, faults] of Object.entries(calls[role])) {
      for (const fault of [...faults, "KILL"]) {
        waiting.push(async () => {
          using place = new Place();
          note(
            await runBunChain(place, [role, call, fault], (strace, isKilled) => meet(place, role, strace, isKilled)),
          );
        });
      }
    }
  }
  const lane = async (): Promise<void> => {
    for (let chain = waiting.shift(); chain; chain = waiting.shift()) await chain();
  };
  const lanes = Array.from({ length: LANES }, lane);
  try {
    await Promise.all(lanes);
  } finally {
    waiting.length = 0; // the other lanes stop too, and clear up
    await Promise.allSettled(lanes);
  }
}

export const checks: Checks = {
  "each failing system call of the library, at any time, is an error that slotbus.h names and leaves nothing behind":
    () => everyChain(systemCalls(BUS, asListed)),
  "each failing system call of a fleet, at any time, is an error that fleet.h names and leaves nothing behind": () =>
    everyChain(systemCalls(FLEET, asListed)),
  "each failing allocation of the library, at any time, is an error that its header names and leaves nothing behind":
    () => everyChain(allocations),
  "a client or worker killed at any system call leaves the other side intact and nothing to clean up": () =>
    everyChain(systemCalls(BUS, onlyKill)),
  "a member killed at any system call leaves a fleet that can be joined, and only files that the next join removes":
    () => everyChain(systemCalls(FLEET, onlyKill)),
  "a failing system call under Bun is a typed error or no error; there, and where the process is killed, the other side still works":
    () => callsFailInBun(BUN_CALLS, meetInBun),
  "a failing system call of a Bun worker with two clients is a typed error or no error; there, and where it is killed, both are served":
    () => callsFailInBun(SHARED_CALLS, meetTwoClients),
  "a failing system call under Bun in a fleet is a typed error or no error, and a member killed there harms no other":
    () => callsFailInBun(FLEET_CALLS, meetInAFleet),
};
