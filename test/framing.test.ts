/** Messages in a stream of bytes, for every cut of the stream. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { Fault, type Framing, FRAMINGS, messageReader } from "../src/stdio/framing.ts";
import { peekId } from "../src/stdio/rpc.ts";
import { Outbox } from "../src/stdio/writer.ts";

/** Everything that a reader finds in chunks, and at their end. */
function read(framing: Framing, chunks: Uint8Array[], limit = 1_000): unknown[] {
  const reader = messageReader(framing, limit);
  const found: unknown[] = [];
  const take = (): void => {
    for (let next = reader.next(); next !== undefined; next = reader.next()) found.push(next);
  };
  for (const chunk of chunks) {
    reader.push(chunk);
    take();
  }
  reader.finish();
  take();
  return found;
}

function written(framing: Framing, messages: unknown[]): Uint8Array {
  const outbox = new Outbox(framing);
  let bytes = 0;
  for (const message of messages) bytes += outbox.add(JSON.stringify(message));
  expect(outbox.bytes).toBe(bytes);
  const data = outbox.take();
  const all = typeof data === "string" ? Buffer.from(data) : data;
  expect(all.length).toBe(bytes);
  expect(outbox.bytes).toBe(0);
  return all;
}

/** The same bytes, cut at those places. */
function cut(bytes: Uint8Array, places: number[]): Uint8Array[] {
  const at = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...at].map((start, index) => bytes.slice(start, at[index] ?? bytes.length));
}

function reasons(found: unknown[]): unknown[] {
  return found.map((one) => (one instanceof Fault ? one.reason : one));
}

const lines = (text: string): Uint8Array => Buffer.from(text);

/** Places that cut a stream of 400 bytes between any two bytes. */
const everywhere = Array.from({ length: 400 }, (_, place) => place);

/** Hard cases, which run each time. Add what a random run finds. */
const MESSAGES: [messages: unknown[], places: number[]][] = [
  [[], []],
  [["", 0, null, [], {}], everywhere],
  [["Content-Length: 2\r\n\r\n{}", "\r\n\r\n"], everywhere],
  [["ä€😀\u2028\u2029\ufeff\ud800"], everywhere],
  [["\0\0\0\u0002{}", "\u007f\u0080\u00ff"], everywhere],
];
const BYTES: [bytes: Uint8Array, places: number[]][] = [
  "\ufeff1\n2\n", // a byte order mark
  "\r\n\r\n\r1\r\r\n2",
  "Content-Length: 1\r\n\r\n1Content-Length: 1\n\n2",
  "Content-Length: 1\r\nContent-Length: 2\r\n\r\n12",
  "Content-Length: -1\r\n\r\n1",
  "Content-Length: 99999999999999999999\r\n\r\n1",
  "Content-Length: 51\r\n\r\n1",
  "content-length:1\r\nx: y\r\n\r\n",
  "\0\0\0\0\0\0\0\u00011\0\0\0\u00021",
  "\0\0\0\u000351\n",
  `${"x".repeat(51)}\n1\n`,
  [0x22, 0xe2, 0x82, 10, 0x22, 0xff, 0x22, 10, 0x31, 10], // UTF-8 that stops in a character
  [0, 0, 0, 3, 0x22, 0xff, 0x22, 0, 0, 0, 1, 0x31],
  [0x20, 0, 0, 0, 0x31, 0xff, 0xff, 0xff, 0xff],
].map((bytes) => [Uint8Array.from(typeof bytes === "string" ? Buffer.from(bytes) : bytes), everywhere]);

for (const framing of FRAMINGS) {
  test(`${framing}: written messages are read back, for every cut of the bytes`, () => {
    const anything = fc.array(fc.oneof(fc.jsonValue(), fc.string({ unit: "grapheme" })), { maxLength: 8 });
    fc.assert(
      fc.property(anything, fc.array(fc.nat(), { maxLength: 12 }), (messages, places) => {
        const sent = messages.filter((message) => JSON.stringify(message).length < 300);
        const bytes = written(framing, sent);
        const found = read(framing, cut(bytes, places), 10_000);
        expect(found).toEqual(sent.map((message) => JSON.parse(JSON.stringify(message))));
      }),
      { numRuns: 300, examples: MESSAGES },
    );
  });

  test(`${framing}: random bytes, cut anywhere, give only messages and faults, and never throw`, () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.array(fc.nat(), { maxLength: 6 }), (bytes, places) => {
        const whole = reasons(read(framing, [bytes], 50));
        expect(reasons(read(framing, cut(bytes, places), 50))).toEqual(whole);
      }),
      { numRuns: 500, examples: BYTES },
    );
  });

  test(`${framing}: a message of exactly the limit is read; one byte more is too long, and the next is read again`, () => {
    const exact = "x".repeat(98); // 100 bytes with its quotes
    const bytes = written(framing, [exact, `${exact}y`, "next"]);
    for (const chunks of [[bytes], cut(bytes, [50, 150, 170]), [...bytes].map((byte) => Uint8Array.of(byte))]) {
      expect(reasons(read(framing, chunks, 100))).toEqual([exact, "too long", "next"]);
    }
  });

  test(`${framing}: a stream that ends in the middle of a message ends with a fault that says so`, () => {
    const bytes = written(framing, ["whole", { half: "message" }]);
    expect(reasons(read(framing, [bytes.slice(0, -3)]))).toEqual(["whole", "cut"]);
  });
}

test("a multi-byte character that is cut between two chunks is read whole", () => {
  const bytes = lines('"ä€😀"\n');
  for (let at = 1; at < bytes.length; at++) {
    expect(read("ndjson", [bytes.slice(0, at), bytes.slice(at)])).toEqual(["ä€😀"]);
  }
});

test("empty lines and carriage returns are skipped; a last line without its line break is a message", () => {
  expect(read("ndjson", [lines('\n\r\n  \n1\r\n\n{"a":2}\r\n3')])).toEqual([1, { a: 2 }, 3]);
});

test("a line that is not UTF-8 or not JSON is a fault, and the lines around it are read", () => {
  const bad = Buffer.concat([lines("1\n"), Buffer.from([0x22, 0xff, 0x22, 10]), lines("2\nprinted by mistake\n3\n")]);
  expect(reasons(read("ndjson", [bad]))).toEqual([1, "not UTF-8", 2, "not JSON", 3]);
  expect(reasons(read("ndjson", cut(bad, [3, 4, 12])))).toEqual([1, "not UTF-8", 2, "not JSON", 3]);
});

test("a line that is too long keeps only its two ends and its length", () => {
  const line = `{"id":7,"result":"${"x".repeat(5_000_000)}","last":1}`;
  const chunks = cut(lines(`${line}\n8\n`), [100_000, 1_000_000, 4_999_999]);
  const [fault, next] = read("ndjson", chunks, 10_000) as [Fault, number];
  expect(fault.bytes).toBe(line.length);
  expect(Buffer.from(fault.head).toString()).toStartWith('{"id":7,');
  expect(Buffer.from(fault.tail).toString()).toEndWith('"last":1}');
  expect(fault.head.length + fault.tail.length).toBeLessThanOrEqual(1_024);
  expect(next).toBe(8);
});

test("content-length: invalid header lines are faults, and the message after them is read", () => {
  const text = "debug: on\nContent-Length: 2\r\nContent-Type: x\r\n\r\n42content-length: 1\r\n\r\n7";
  expect(reasons(read("content-length", [lines(text)]))).toEqual(["no frame", 42, 7]);
});

test("length: text in place of a length is a fault, and nothing after it can be read", () => {
  const found = read("length", [Buffer.concat([lines("Hello, world\n"), written("length", [1])])]) as Fault[];
  expect(found.map(({ reason, isFatal }) => [reason, isFatal])).toEqual([["no frame", true]]);
});

test("the time to read many small chunks of one long line grows with its bytes only", () => {
  const timeOf = (bytes: number): number => {
    const chunk = Buffer.alloc(1_024, "x");
    const reader = messageReader("ndjson", 2 ** 30);
    const start = performance.now();
    for (let sent = 0; sent < bytes; sent += chunk.length) {
      reader.push(chunk);
      reader.next();
    }
    return performance.now() - start;
  };
  timeOf(2 ** 22);
  const small = Math.min(timeOf(2 ** 22), timeOf(2 ** 22));
  const large = Math.min(timeOf(2 ** 25), timeOf(2 ** 25)); // 8 times the bytes; quadratic work would be 64 times
  expect(large).toBeLessThan(Math.max(small, 2) * 30);
});

const peek = (text: string): unknown => peekId(lines(text).subarray(0, 512), lines(text).subarray(-512));

test("the id of a response is found at either end of a line, and never inside its result", () => {
  const long = "x".repeat(2_000);
  expect(peek(`{"jsonrpc":"2.0","id":7,"result":"${long}"}`)).toBe(7);
  expect(peek(`{"result":"${long}","id":"a\\"1","jsonrpc":"2.0"}`)).toBe('a"1');
  expect(peek(`{"id":42,"result":NaN}`)).toBe(42);
  expect(peek(`{"result":{"id":7,"text":"${long}"}}`)).toBeUndefined();
  expect(peek(`{"result":"${long}","x":{"id":7}}`)).toBeUndefined();
  expect(peek(`printed {"id":7}`)).toBeUndefined();
});
