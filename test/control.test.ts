/** Messages of the control socket. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import type { Socket } from "bun";
import { cancelBody, MessageReader, MessageWriter, readCancel } from "../src/native/control.ts";
import { systemClock } from "../src/clock.ts";
import { C, native } from "../src/native/library.ts";
import { until, Workspace } from "./support.ts";

const message = (type: number, ...body: number[]) => [type, body.length, ...body];
const stream = new Uint8Array([
  0,
  ...message(C.SB_MSG_CANCEL, 1, 2, 3),
  0,
  0,
  ...message(C.SB_MSG_GOODBYE),
  ...message(9, ...Array(200).keys()),
  0,
]);
const whole = [
  [C.SB_MSG_CANCEL, 3],
  [C.SB_MSG_GOODBYE, 0],
  [9, 200],
];

test("messages and bells are decoded the same for every cut of the stream", () => {
  for (let cut = 0; cut <= stream.length; cut++) {
    for (const second of [cut, Math.min(stream.length, cut + 1), stream.length]) {
      const reader = new MessageReader();
      const seen: number[][] = [];
      let bells = 0;
      for (const [from, to] of [
        [0, cut],
        [cut, second],
        [second, stream.length],
      ]) {
        const chunk = stream.slice(from, to);
        bells += reader.read(chunk, (type, body) => seen.push([type, body.length]));
        chunk.fill(0xee); // Bun uses its buffer again
      }
      expect([seen, bells]).toEqual([whole, 4]);
    }
  }
});

test("byte by byte too, with the bodies intact", () => {
  const reader = new MessageReader();
  const bodies: number[][] = [];
  for (const byte of stream) reader.read(new Uint8Array([byte]), (_, body) => bodies.push([...body]));
  expect(bodies).toEqual([[1, 2, 3], [], [...Array(200).keys()]]);
});

test("a cancel carries slot and token; a cancel with another length is ignored", () => {
  expect(readCancel(cancelBody(255, 0xfffffff0))).toEqual({ slot: 255, token: 0xfffffff0 });
  expect(readCancel(new Uint8Array(7))).toBeNull();
});

test("messages that meet a full socket are sent later, whole, in order, and none is lost", async () => {
  await using space = new Workspace();
  const reader = new MessageReader();
  const seen: number[] = [];
  let paused: Socket<undefined> | null = null;
  const listener = Bun.listen({
    unix: join(space.directory, "peer.sock"),
    socket: {
      open: (socket) => {
        socket.pause(); // a peer that does not read
        paused = socket;
      },
      data: (_, bytes) => {
        reader.read(bytes, (type, body) => {
          expect([type, body.length]).toEqual([C.SB_MSG_CANCEL, 200]);
          seen.push(new DataView(body.buffer, body.byteOffset).getUint32(0, true));
        });
      },
    },
  });
  const client = await Bun.connect({ unix: join(space.directory, "peer.sock"), socket: { data: () => {} } });
  const { fd } = client as unknown as { fd: number };
  const writer = new MessageWriter(fd, systemClock);
  await until(() => paused !== null, "the peer is there");
  const body = new Uint8Array(200);
  for (let i = 0; i < 10_000; i++) {
    new DataView(body.buffer).setUint32(0, i, true);
    writer.send(C.SB_MSG_CANCEL, body.slice());
  }
  expect(native.sb_control_send(fd, C.SB_MSG_GOODBYE, body, 0)).toBe(-C.SB_EAGAIN); // it really is full
  paused!.resume();
  await until(() => seen.length === 10_000, "all have come");
  expect(seen.every((value, i) => value === i)).toBe(true);
  writer.close();
  writer.send(C.SB_MSG_CANCEL, body); // an invalid message without effect
  client.terminate();
  listener.stop(true);
});
