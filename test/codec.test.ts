/** Heads and bodies in an arena. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  Arena,
  bodyLength,
  bodyOffset,
  encodeHead,
  encodeMethod,
  HeadEncoder,
  HeadWriter,
  METHODS,
  writeBody,
} from "../src/bus/codec.ts";
import { Head, HeadReader } from "../src/bus/head.ts";
import { type SlotbusError, HeadTooLargeError, InvalidConfigError, PayloadTooLargeError } from "../src/index.ts";

const LIMIT = 65_536;
const arena = () => new Arena(new ArrayBuffer(2 * LIMIT));
const leading = 4;

function encoded(strings: string[], parameters = 0): Uint8Array {
  const at = arena();
  const length = encodeHead(at, strings, parameters, leading + 2 * parameters, LIMIT, "request");
  return at.bytes.slice(0, length);
}

test("strings of every kind come back as they were", () => {
  const cases = [
    ["/", "", "", ""],
    ["/path", "a=1", "/:x", "id"],
    ["/grün", "日本語", "🎉", "\u{10ffff}"],
    ["x".repeat(127), "y".repeat(128), "z".repeat(16_384), ""],
    ["", "", "", "", "name", "value", "name", "", "other", "tab\tbed"],
  ];
  for (const strings of cases) {
    const head = Head.decode(encoded(strings), leading);
    expect(head.strings(0, head.count)).toEqual(strings);
    for (const [i, string] of strings.entries()) expect(head.string(i)).toBe(string);
  }
});

test("parameters are separate from headers", () => {
  const head = Head.decode(encoded(["/", "", "", "", "p", "1", "h", "2"], 1), leading);
  expect([head.parameters, head.headers.entries()]).toEqual([1, [["h", "2"]]]);
});

test("a lone surrogate becomes the replacement character, and the text around it is unchanged", () => {
  const head = Head.decode(encoded(["a\ud800b", "next", "", ""]), leading);
  expect(head.strings(0, 2)).toEqual(["a\ufffdb", "next"]);
});

test("a head that was cut, lengthened or changed in its table is malformed", () => {
  const good = encoded(["/path", "a=1", "", "id", "name", "value"]);
  expect(Head.decode(good, leading).count).toBe(6);
  for (let length = 0; length < good.length; length++) {
    expect(() => Head.decode(good.slice(0, length), leading)).toThrow(expect.objectContaining({ code: "PROTOCOL" }));
  }
  const longer = new Uint8Array(good.length + 1);
  longer.set(good);
  expect(() => Head.decode(longer, leading)).toThrow(expect.objectContaining({ code: "PROTOCOL" }));
  let refused = 0;
  for (let at = 0; at < 10; at++) {
    for (const value of [0, 1, 127, 128, 255]) {
      const bad = good.slice();
      if (bad[at] === value) continue;
      bad[at] = value;
      try {
        const head = Head.decode(bad, leading);
        head.strings(0, head.count); // a head that passes the check must be readable
      } catch (error) {
        expect(error).toMatchObject({ code: "PROTOCOL" });
        refused++;
      }
    }
  }
  expect(refused).toBeGreaterThan(30);
});

test("any head is read as it was written", () => {
  const text = fc.string({ unit: "binary", maxLength: 60 }).map((one) => one.replaceAll(/[\r\n\0]/g, "-"));
  const name = fc.stringMatching(/^[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,20}$/);
  const pairs = { maxLength: 9 };
  fc.assert(
    fc.property(
      fc.tuple(text, text, text, text),
      fc.array(fc.tuple(text, text), pairs),
      fc.array(fc.tuple(name, text), pairs),
      (first, parameters, headers) => {
        const strings = [...first, ...parameters.flat(), ...headers.flat()];
        const head = Head.decode(encoded(strings, parameters.length), leading);
        expect(head.strings(0, head.count)).toEqual(strings);
        expect([head.parameters, head.headers.entries()]).toEqual([parameters.length, headers]);
      },
    ),
    {
      numRuns: 200,
      examples: [
        [["", "", "", ""], [], []],
        [["\ufeff", "\ufffd", "\u0080", "\u007f"], [["", ""]], [["n", "\u{10ffff}"]]],
        [["a\ud83c", "\udf89b", "", ""], [], []], // two halves of one character, in two strings
        [["x".repeat(127), "é".repeat(128), "€".repeat(8_191), "x".repeat(16_384)], [], []],
        [["", "", "", ""], Array(300).fill(["", "€"]), Array(300).fill(["n", ""])],
      ],
    },
  );
});

test("random bytes either are malformed or can be read; nothing else happens", () => {
  let refused = 0;
  let read = 0;
  const isMalformed = (bytes: Uint8Array): void => {
    try {
      const head = Head.decode(bytes, 1);
      expect(head.strings(0, head.count).length).toBe(head.count);
      read++;
    } catch (error) {
      if ((error as SlotbusError).code !== "PROTOCOL") throw error;
      refused++;
    }
  };
  const few = fc.uint8Array({ maxLength: 60 }).map((bytes) => bytes.fill(0, 1, 4)); // few strings: likelier to pass
  const hard = [
    [],
    [1, 0, 0],
    [1, 0, 0, 0],
    [1, 0, 1, 0, 0], // more parameters than pairs
    [255, 255, 0, 0],
    [1, 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0], // a length of six bytes
    [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f], // a length near 2^35
    [1, 0, 0, 0, 0x81, 0x00, 0x61], // a length with a byte too many
    [1, 0, 0, 0, 2, 0xc3, 0xa9], // as many bytes as units, but not ASCII
    [1, 0, 0, 0, 1, 0xe2, 0x82],
    [3, 0, 0, 0, 0, 1, 1, 0xf0, 0x9f, 0x8e, 0x89], // one character in two strings
  ].map((bytes): [Uint8Array] => [Uint8Array.from(bytes)]);
  fc.assert(fc.property(fc.oneof(fc.uint8Array({ maxLength: 60 }), few), isMalformed), {
    numRuns: 5_000,
    examples: hard,
  });
  expect(refused).toBeGreaterThan(3_000);
  expect(read).toBeGreaterThan(3);
});

test("a head may have exactly the limit; one byte more is refused with both numbers", () => {
  const at = arena();
  const strings = ["/", "", "", "", "x", "v".repeat(900)];
  const length = encodeHead(at, strings, 0, leading, LIMIT, "request");
  expect(encodeHead(at, strings, 0, leading, length, "request")).toBe(length);
  expect(() => encodeHead(at, strings, 0, leading, length - 1, "request")).toThrow(HeadTooLargeError);
  expect(() => encodeHead(at, strings, 0, leading, length - 1, "request")).toThrow(
    `${length} bytes; the limit of this bus is ${length - 1}`,
  );
  const wide = ["/", "", "", "", "x", "é".repeat(450)];
  const wideLength = encodeHead(at, wide, 0, leading, LIMIT, "request");
  expect(encodeHead(at, wide, 0, leading, wideLength, "request")).toBe(wideLength);
  expect(() => encodeHead(at, wide, 0, leading, wideLength - 1, "request")).toThrow(HeadTooLargeError);
});

test("line breaks, NUL and invalid names are refused; the text of an error may have line breaks", () => {
  for (const bad of ["a\nb", "a\rb", "a\0b", "é\nb"]) {
    expect(() => encoded([bad, "", "", ""])).toThrow(InvalidConfigError);
    expect(() => encoded(["/", "", "", "", "name", bad])).toThrow(InvalidConfigError);
  }
  for (const name of ["", "a b", "a:b", "é", "a\n"]) {
    expect(() => encoded(["/", "", "", "", name, "value"])).toThrow(InvalidConfigError);
  }
  const at = arena();
  const texts = ["CODE", "Error", "two\nlines", "at x\n  at y"];
  const length = encodeHead(at, texts, 0, texts.length, LIMIT, "response", true);
  expect(Head.decode(at.bytes.slice(0, length), 4).strings(0, 4)).toEqual(texts);
});

test("a writer with a cache writes the same bytes as one without, after any other heads", () => {
  const writer = new HeadWriter();
  const arenas = [arena(), arena()];
  const values = ["aaaa", "bbbb", "cccc", "longer", "é", "e", "", "\ud83c\udf89"];
  for (let i = 0; i < 4_000; i++) {
    const pick = (n: number): string => values[(i * 7 + n * 13 + (i >> 3)) % values.length]!;
    const strings = [
      `/${pick(1)}`,
      pick(2),
      "",
      i % 3 ? "" : pick(3),
      "name",
      pick(4),
      i % 5 ? "name" : "eman",
      pick(5),
    ];
    const at = arenas[i % 2]!;
    if (i % 11 === 0) encodeHead(at, ["other", "", "", ""], 0, leading, LIMIT, "request");
    writer.put(strings);
    const length = writer.write(at, 0, leading, LIMIT, "request");
    expect(Buffer.compare(at.bytes.slice(0, length), encoded(strings))).toBe(0);
  }
});

test("a head that is sent later keeps its bytes when others are encoded", () => {
  const text = fc.stringMatching(/^[a-z]{0,4}$/);
  const heads = fc.array(fc.tuple(text, text, text, text), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(heads, (all) => {
      const encoder = new HeadEncoder();
      const kept = all.map((strings) => {
        const own = encoder.heads.take();
        own.push(...strings);
        encoder.heads.put(own);
        return encoder.encode(0, leading, LIMIT, "request");
      });
      expect(kept).toEqual(all.map((strings) => encoded(strings)));
    }),
  );
  const encoder = new HeadEncoder();
  const again = (): Uint8Array => {
    const strings = encoder.heads.take();
    strings.push("/path", "", "", "");
    encoder.heads.put(strings);
    return encoder.encode(0, leading, LIMIT, "request");
  };
  again();
  expect(again()).toBe(again()); // no copy
});

test("a variant of a cached head is checked like any other", () => {
  const writer = new HeadWriter();
  const at = arena();
  const write = (name: string, value: string): number => {
    writer.put(["/", "", "", "", name, value]);
    return writer.write(at, 0, leading, LIMIT, "request");
  };
  for (let i = 0; i < 20; i++) write("name", "abcd");
  expect(() => write("name", "ab\nd")).toThrow(InvalidConfigError);
  expect(() => write("na e", "abcd")).toThrow(InvalidConfigError);
  const length = write("name", "abcd");
  expect(Head.decode(at.bytes.slice(0, length), leading).headers.entries()).toEqual([["name", "abcd"]]);
});

test("a variant writes only what differs from the head in the arena", () => {
  const writer = new HeadWriter();
  const at = arena();
  const write = (to: Arena, first: string, second: string): number => {
    writer.put(["/", "", "", "", "a", first, "b", second, "c", "same"]);
    return writer.write(to, 0, leading, LIMIT, "request");
  };
  const plain = (first: string, second: string): Uint8Array =>
    encoded(["/", "", "", "", "a", first, "b", second, "c", "same"]);
  write(at, "1111", "1111");
  for (const [first, second] of [
    ["2222", "1111"],
    ["1111", "2222"],
    ["3333", "3333"],
    ["1111", "1111"],
    ["1111", "4444"],
    ["5555", "1111"],
  ] as const) {
    const length = write(at, first, second);
    expect(Buffer.compare(at.bytes.slice(0, length), plain(first, second))).toBe(0);
  }
  const size = write(at, "6666", "1111");
  at.bytes[size - 1] = 0x21; // the last byte of "same"
  write(at, "7777", "1111");
  expect(at.bytes[size - 1]).toBe(0x21);
  encodeHead(at, ["/other/path/of/another/request", "", "", ""], 0, leading, LIMIT, "request");
  write(at, "8888", "1111");
  expect(Buffer.compare(at.bytes.slice(0, size), plain("8888", "1111"))).toBe(0);
  expect(() => write(at, "9999", "99\n9")).toThrow(InvalidConfigError);
  write(at, "9999", "1111");
  expect(Buffer.compare(at.bytes.slice(0, size), plain("9999", "1111"))).toBe(0);
});

test("a reader with a cache gives equal heads for equal bytes, and different heads for different bytes", () => {
  const reader = new HeadReader(leading);
  const at = arena();
  const read = (bytes: Uint8Array) => {
    at.bytes.fill(170).set(bytes);
    return reader.read(at, bytes.length);
  };
  const first = read(encoded(["/a", "", "", ""]));
  expect(read(encoded(["/a", "", "", ""]))).toBe(first);
  const second = read(encoded(["/b", "", "", ""]));
  at.bytes.fill(0); // a head does not read shared memory again
  expect([first.string(0), second.string(0)]).toEqual(["/a", "/b"]);
  expect(() => read(encoded(["/b", "", "", ""]).fill(255, 0, 4))).toThrow(
    expect.objectContaining({ code: "PROTOCOL" }),
  );
});

test("bodies of every kind are written, measured and limited", () => {
  const at = arena();
  const view = new DataView(new Uint8Array([9, 1, 2, 9]).buffer, 1, 2);
  for (const [body, bytes] of [
    ["grün", [103, 114, 195, 188, 110]],
    ["", []],
    [null, []],
    [undefined, []],
    [new Uint8Array([1, 2]), [1, 2]],
    [new Uint8Array([1, 2]).buffer, [1, 2]],
    [view, [1, 2]],
  ] as const) {
    const length = writeBody(at, 16, body, 5, "request");
    expect(Array.from(at.bytes.subarray(16, 16 + length))).toEqual([...bytes]);
    expect(bodyLength(body)).toBe(bytes.length);
  }
  for (const body of ["grüne", new Uint8Array(6)]) {
    expect(() => writeBody(at, 16, body, 5, "request")).toThrow(PayloadTooLargeError);
  }
  expect([bodyOffset(0), bodyOffset(1), bodyOffset(8), bodyOffset(9)]).toEqual([0, 8, 8, 16]);
});

test("each method has an index, and an unknown method is refused", () => {
  expect(METHODS.map(encodeMethod)).toEqual([0, 1, 2, 3, 4, 5, 6]);
  for (const method of ["get", "TRACE", "", "G\0T"]) expect(() => encodeMethod(method)).toThrow(InvalidConfigError);
});
