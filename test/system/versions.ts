/** Clients and workers of other versions, and of another layout of the same version. */

import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { C } from "../../src/native/abi.ts";
import { type Checks, expect, needTool, Place, Program, program, root, run } from "./checks.ts";
import { FILE, Member } from "./fleet.ts";

/** An installation of slotbus: its program and environment. */
interface Installation {
  program: (...words: string[]) => string[];
  env: Record<string, string>;
}

const here: Installation = { program, env: {} };

/** Installs another version, or this version with a changed C header. */
async function install(
  folder: string,
  abi: number,
  change: (header: string) => string,
  name: "slotbus.h" | "fleet.h" = "slotbus.h",
): Promise<Installation> {
  mkdirSync(folder);
  for (const part of [
    "src",
    "csrc",
    "build.zig",
    "test/system/program.ts",
    "test/system/member.ts",
    "test/system/orders.ts",
  ]) {
    cpSync(join(root, part), join(folder, part), { recursive: true });
  }
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
  const header = join(folder, "csrc", name);
  writeFileSync(header, change(readFileSync(header, "utf8")));
  const zig = [
    "sh",
    "-c",
    'cd "$0" && exec "$@"',
    folder,
    needTool("zig"),
    "build",
    `-Dabi=${abi}`,
    "--prefix",
    folder,
  ];
  await run(zig);
  const env = { SLOTBUS_LIB: join(folder, "lib/libslotbus.so") };
  await run([process.execPath, join(folder, "src/native/generate.ts")], env);
  return { program: (...words) => [process.execPath, join(folder, "test/system/program.ts"), ...words], env };
}

/** Expects that a client and a worker of two installations refuse each other with these texts. */
async function expectMismatch(clientOf: Installation, workerOf: Installation, texts: RegExp, reason: RegExp | null) {
  using place = new Place();
  await using client = new Program(clientOf.program("client", place.directory), clientOf.env);
  await client.expectLine("listening");
  await using worker = new Program(workerOf.program("patient", place.directory), workerOf.env);
  await worker.expectLine("waiting");
  for (let round = 0; round < 3; round++) {
    await worker.tell("open 0");
    const line = await worker.lineFrom("error");
    expect(line.startsWith("error VERSION_MISMATCH") && texts.test(line), `the worker says: ${line}`);
    if (reason) {
      const refusal = await client.lineFrom("refused");
      expect(reason.test(refusal), `the client says: ${refusal}`);
    }
    await worker.tell("mappings");
    expect((await worker.lineFrom("mappings")) === "mappings 0", "the worker has mapped the region");
  }
  await using friend = new Program(clientOf.program("worker", place.directory), clientOf.env); // the client still works
  await friend.expectLine("attached");
  await client.lineFrom("joined");
  await client.order("go 10");
  await client.tell("mappings");
  expect((await client.lineFrom("mappings")) === "mappings 1", "the client keeps regions of workers that it refused");
}

/** What a client of one version and a worker of another say of each other: the worker first. */
function mismatch(client: number, worker: number): [RegExp, RegExp] {
  return [
    new RegExp(`speaks protocol version ${client}; this process speaks ${worker}`),
    new RegExp(`it speaks protocol ${worker} to ${worker}, this bus speaks ${client}`),
  ];
}

/** Expects that clients of two versions share a name: the workers of each serve it, and say why they refuse the other. */
async function expectBothServed(ours: Installation, theirs: Installation, versions: [number, number]): Promise<void> {
  using place = new Place();
  const one = async (of: Installation, role: string, ready: string): Promise<Program> => {
    const started = new Program(of.program(role, place.directory), of.env);
    await started.expectLine(ready);
    return started;
  };
  const expectMapped = async (of: Program): Promise<void> => {
    await of.tell("mappings");
    expect((await of.lineFrom("mappings")) === "mappings 1", "a side of the other version was mapped");
  };
  await using oldClient = await one(ours, "sharer", "listening");
  await using oldWorker = await one(ours, "worker", "attached");
  await oldClient.lineFrom("joined");
  await using newClient = await one(theirs, "sharer", "listening");
  const [workerSays, clientSays] = mismatch(versions[1], versions[0]);
  const line = await oldWorker.lineFrom("error");
  expect(line.startsWith("error VERSION_MISMATCH") && workerSays.test(line), `the worker says: ${line}`);
  const refusal = await newClient.lineFrom("refused");
  expect(clientSays.test(refusal), `the client says: ${refusal}`);
  await using newWorker = await one(theirs, "worker", "attached");
  await newClient.lineFrom("joined");
  await oldClient.order("go 10");
  await newClient.order("go 10");
  for (const each of [oldClient, oldWorker, newClient, newWorker]) await expectMapped(each);
}

async function otherVersions(): Promise<void> {
  const ours = C.SB_ABI;
  using builds = new Place();
  for (const theirs of [ours - 1, ours + 1]) {
    const other = await install(join(builds.folder, String(theirs)), theirs, (header) => header);
    await expectMismatch(here, other, ...mismatch(ours, theirs));
    await expectMismatch(other, here, ...mismatch(theirs, ours));
    await expectBothServed(here, other, [ours, theirs]);
  }
}

async function otherLayout(): Promise<void> {
  using builds = new Place();
  const field = "uint8_t pad5[SB_LINE];";
  const other = await install(join(builds.folder, "layout"), C.SB_ABI, (header) => {
    expect(header.includes(field), `slotbus.h has no ${field}`);
    return header.replace(field, "uint8_t pad5[3 * SB_LINE];");
  });
  const says = new RegExp(`speaks protocol version ${C.SB_ABI} of another build; this process speaks ${C.SB_ABI}`);
  await expectMismatch(here, other, says, null);
  await expectMismatch(other, here, says, null);
}

/** Expects that a fleet of one installation refuses members of the other, while its members live and after they died. */
async function expectRefusal(fleetOf: Installation, otherOf: Installation, says: RegExp): Promise<void> {
  using place = new Place();
  const member = (of: Installation) => Member.start(of.program("member", place.directory), of.env);
  await using one = await member(fleetOf);
  const { epoch } = await one.join();
  await using refused = await member(otherOf);
  const expectRefused = async (): Promise<void> => {
    const bytes = readFileSync(join(place.directory, FILE));
    for (const command of ["join", "observe"]) {
      const line = await refused.refused("VERSION_MISMATCH", command);
      expect(says.test(line), `the refused member says: ${line}`);
    }
    expect(readFileSync(join(place.directory, FILE)).equals(bytes), "the refused member wrote to the fleet");
  };
  await expectRefused();
  one.kill("SIGKILL");
  await one.ended();
  await expectRefused();
  await using friend = await member(fleetOf);
  expect((await friend.join()).epoch > epoch, "the next epoch is not later");
}

async function otherFleets(): Promise<void> {
  using builds = new Place();
  const ours = C.SB_FLEET_ABI;
  const replaced = (from: string, to: string) => (header: string) => {
    expect(header.includes(from), `fleet.h has no ${from}`);
    return header.replace(from, to);
  };
  const newer = replaced(`X(SB_FLEET_ABI, ${ours},`, `X(SB_FLEET_ABI, ${ours + 1},`);
  const shaped = replaced("(sizeof(struct sb_wake) << 8)", "((sizeof(struct sb_wake) + SB_LINE) << 8)");
  const version = (theirs: string, own: number) => new RegExp(`version ${theirs}; this process speaks ${own}`);
  const next = await install(join(builds.folder, "next"), C.SB_ABI, newer, "fleet.h");
  await expectRefusal(here, next, version(`${ours}`, ours + 1));
  await expectRefusal(next, here, version(`${ours + 1}`, ours));
  const other = await install(join(builds.folder, "other"), C.SB_ABI, shaped, "fleet.h");
  await expectRefusal(here, other, version(`${ours} of another build`, ours));
  await expectRefusal(other, here, version(`${ours} of another build`, ours));
}

export const checks: Checks = {
  "a client and a worker of neighbouring versions refuse each other, name both versions, and map nothing; both can share a name":
    otherVersions,
  "a client and a worker of one version with different structures refuse each other, say so, and map nothing":
    otherLayout,
  "a fleet of another version or with other structures is refused with both numbers and not changed": otherFleets,
};
