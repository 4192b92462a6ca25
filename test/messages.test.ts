/**
 * The messages of the handshake as this version has always sent them, kept as bytes in fixtures/messages. A difference
 * is another version: raise SB_ABI_VERSION in csrc/slotbus.h, and keep the new messages beside the old ones.
 */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { CString } from "bun:ffi";
import { VersionMismatchError } from "../src/index.ts";
import { C, native, type Pointer } from "../src/native/library.ts";
import { rejection, until, Workspace } from "./support.ts";

const folder = join(import.meta.dir, "fixtures/messages", `v${C.SB_ABI}`);
const geometry = { slots: 4, payloadBytes: 65_536, headBytes: 4_096, inlineBytes: 4_096 };

function fixture(name: string): string {
  return readFileSync(join(folder, `${name}.bin`)).toString("hex");
}

/** Sends bytes in hex to the client of a bus, and resolves to its answer. */
async function converse(space: Workspace, hex: string): Promise<string> {
  let got = "";
  const socket = await Bun.connect({
    unix: join(space.directory, `${space.name}.sock`),
    socket: { data: (_, bytes) => void (got += Buffer.from(bytes).toString("hex")) },
  });
  socket.write(Buffer.from(hex, "hex"));
  await until(() => got !== "", "the client answers");
  socket.terminate();
  return got;
}

/** A listener in place of a client: sends `answer` in hex after a worker's first bytes, and resolves to both. */
async function beClient(space: Workspace, answer: string): Promise<{ heard: string; error: Error }> {
  let heard = "";
  const listener = Bun.listen({
    unix: join(space.directory, `${space.name}.sock`),
    socket: {
      data: (socket, bytes) => {
        heard += Buffer.from(bytes).toString("hex");
        socket.write(Buffer.from(answer, "hex"));
      },
    },
  });
  const error = await rejection(space.worker(undefined, { concurrency: 5, timeout: 0 }));
  listener.stop(true);
  return { heard, error };
}

test("a worker's JOIN is its version's, and its client's REFUSED is understood", async () => {
  await using space = new Workspace();
  const { heard, error } = await beClient(space, fixture("refused"));
  expect(heard).toBe(fixture("join"));
  expect(error).toBeInstanceOf(VersionMismatchError);
});

test("a client's HELLO is its version's, except the epoch, and accepts its version's JOIN", async () => {
  await using space = new Workspace();
  await space.bus(geometry);
  const withoutEpoch = (hex: string) => hex.slice(0, 20) + "-".repeat(16) + hex.slice(36); // two bytes and the magic first
  expect(withoutEpoch(await converse(space, fixture("join")))).toBe(withoutEpoch(fixture("hello")));
});

test("a client's REFUSED to an impossible version is its own version's", async () => {
  await using space = new Workspace();
  await space.bus();
  const join = fixture("join");
  const future = `${join.slice(0, 20)}feffffff${join.slice(28)}`; // lowest and highest version
  expect(await converse(space, future)).toBe(fixture("refused"));
});

test("no constant or field that this version has ever described has changed its value or place", () => {
  const today = String(new CString(native.sb_abi_text() as Pointer)).split("\n");
  const kept = readFileSync(join(folder, "layout.txt"), "utf8").trim().split("\n");
  expect(kept.length).toBeGreaterThan(50);
  expect(kept.filter((line) => !today.includes(line))).toEqual([]);
});
