/** Messages of the control socket. */

import { expect, test } from "bun:test";
import { cancelBody, MessageReader, readCancel } from "../src/bus/control.ts";
import { C } from "../src/native/abi.ts";

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

test("however a stream is cut, the same messages and bells come out", () => {
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

test("a cancel carries slot and token; one of another length is none", () => {
  expect(readCancel(cancelBody(255, 0xfffffff0))).toEqual({ slot: 255, token: 0xfffffff0 });
  expect(readCancel(new Uint8Array(7))).toBeNull();
});
