/** Heads that follow one another in one reader: what it takes from the head before. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { Arena, encodeHead } from "../src/bus/codec.ts";
import { Head, HeadReader } from "../src/bus/head.ts";

const LIMIT = 8_192;
const leading = 4;

class Stage {
  readonly arena = new Arena(new ArrayBuffer(LIMIT));
  readonly reader = new HeadReader(leading);

  write(strings: string[], parameters = 0): number {
    return encodeHead(this.arena, strings, parameters, leading + 2 * parameters, LIMIT, "request");
  }

  read(strings: string[], parameters = 0): Head {
    return this.reader.read(this.arena, this.write(strings, parameters));
  }
}

/** Reads all of a head in one of the orders in which user code may read it. */
function contents(head: Head, order = 0): unknown {
  if (order === 1) head.string(0);
  if (order === 2) head.headers.entries();
  return [head.string(0), head.strings(0, head.count), head.parameters, head.headers.entries(), head.size];
}

test("a head of equal lengths keeps the strings that are equal", () => {
  const stage = new Stage();
  const of = (path: string, id: string, last: string): string[] => [path, "", "", "", "x-id", id, "last", last];
  const all = [
    of("/a", "id-01", "same"),
    of("/a", "id-02", "same"),
    of("/b", "id-02", "same"),
    of("/b", "id-03", "emas"),
    of("/a", "id-03", "same"),
  ];
  for (const order of [0, 1, 2]) {
    const heads = all.map((strings) => {
      const head = stage.read(strings);
      expect(contents(head, order)).toEqual([strings[0], strings, 0, head.headers.entries(), head.size]);
      return head;
    });
    stage.arena.bytes.fill(255); // a head does not read shared memory again
    expect(heads.map((head) => head.strings(0, head.count))).toEqual(all);
  }
  const unread = all.map((strings) => stage.read(strings));
  expect(unread.map((head) => head.strings(0, head.count))).toEqual(all);
  expect(unread.map((head) => head.string(0))).toEqual(all.map(([path]) => path!));
});

test("a string that begins inside a changed word is decoded, wherever it begins", () => {
  for (const pad of ["", "x", "xx", "xxx"]) {
    const stage = new Stage();
    const all = ["same", "eame", "xame", "same", "sama"].map((last) => [`/${pad}`, "", "", "", "last", last]);
    expect(all.map((strings) => stage.read(strings).strings(0, strings.length))).toEqual(all);
  }
});

test("a head that comes twice is one object, and has no data of another head", () => {
  const stage = new Stage();
  const first = stage.read(["/a", "", "", ""]);
  first.note = {};
  const second = stage.read(["/b", "", "", ""]);
  expect([second.note, second === first]).toEqual([null, false]);
  expect(stage.read(["/b", "", "", ""])).toBe(second);
  expect(stage.read(["/b", "", "", ""])).toBe(second);
  expect(stage.read(["/a", "", "", ""]).string(0)).toBe("/a");
});

test("heads of one size with other lengths or counts are parsed", () => {
  const stage = new Stage();
  const cases: [string[], number][] = [
    [["/", "a", "", "", "n", "vv"], 0],
    [["/a", "", "", "", "n", "vv"], 0],
    [["/a", "", "", "", "nv", "v"], 0],
    [["/a", "", "", "", "nv", "v"], 1],
    [["/b", "", "", "", "nv", "v"], 0],
    [["/b", "", "", "", "vn", "v"], 1],
  ];
  const sizes = new Set<number>();
  for (const [strings, parameters] of cases) {
    const head = stage.read(strings, parameters);
    sizes.add(head.size);
    const headers = strings.slice(leading + 2 * parameters);
    expect([head.strings(0, head.count), head.parameters]).toEqual([strings, parameters]);
    expect(head.headers.entries().flat()).toEqual(headers);
  }
  expect(sizes.size).toBe(1);
  const size = stage.write(["/b", "", "", "", "vn", "v"], 1);
  for (let at = 0; at < 10; at++) {
    stage.write(["/b", "", "", "", "vn", "v"], 1);
    stage.reader.read(stage.arena, size);
    stage.arena.bytes[at]! += 1;
    expect([at, outcome(() => stage.reader.read(stage.arena, size))]).toEqual([at, "PROTOCOL"]);
  }
});

test("heads with text that is not ASCII are parsed, also among others with the same lengths", () => {
  const stage = new Stage();
  const e = "e".repeat(16);
  for (const value of [
    e,
    "é".repeat(16),
    "è".repeat(16),
    e,
    "f".repeat(16),
    "é".repeat(16),
    "日".repeat(8) + e.slice(8),
    e,
  ]) {
    const strings = ["/path", "", "", "", "name", value];
    expect(stage.read(strings).strings(0, 6)).toEqual(strings);
  }
  // As many bytes as units, each byte one unit: so it is without a head before, too.
  const size = stage.write(["/path", "", "", "", "name", "ab"]);
  stage.reader.read(stage.arena, size);
  stage.arena.bytes.set([0xc3, 0xa9], size - 2);
  expect(stage.reader.read(stage.arena, size).string(5)).toBe("\u00c3\u00a9");
});

test("memory that changes while a head is read", () => {
  const stage = new Stage();
  const [a, b, c] = ["aaaa", "bbbb", "cccc"].map((id) => ["/", "", "", "", "x-id1", id]);
  let after = (): void => {};
  const { words } = stage.arena;
  const last = stage.write(a!) / 4 - 1; // no bytes are left behind the last word
  const changing = new Proxy(words, {
    get(target, index) {
      const word = Reflect.get(target, index) as number;
      if (Number(index) === last) after();
      return word;
    },
  });
  Object.assign(stage.arena, { words: changing });
  stage.read(a!);
  let changes = 0;
  after = () => {
    changes++;
    stage.write(c!);
  };
  const second = stage.read(b!);
  expect([changes, second.strings(0, 6)]).toEqual([1, b!]);
  after = () => {};
  expect(stage.read(b!)).toBe(second);
  expect(stage.read(c!).strings(0, 6)).toEqual(c!);
  expect([stage.read(b!).strings(0, 6), second.strings(0, 6)]).toEqual([b!, b!]);
  after = () => void stage.arena.bytes.fill(255);
  expect(stage.read(a!).strings(0, 6)).toEqual(a!);
});

test("a change of any byte of the text is noticed, alone and with another one", () => {
  const stage = new Stage();
  const strings = ["/a", "", "", "", "n", "vw", "mm", "x", "last", "12345"];
  const text = strings.join("");
  const size = stage.write(strings);
  stage.reader.read(stage.arena, size);
  for (let one = 0; one < text.length; one++)
    for (let two = one; two < text.length; two++) {
      stage.write(strings);
      stage.reader.read(stage.arena, size);
      for (const at of [one, two]) stage.arena.bytes[size - text.length + at] = 0x21;
      const bytes = stage.arena.bytes.slice(0, size);
      const read = stage.reader.read(stage.arena, size);
      expect(read.strings(0, read.count)).toEqual(Head.decode(bytes, leading).strings(0, strings.length));
    }
});

test("a reader reads any heads in any order as one without a cache does", () => {
  const bytes = fc.constantFrom("", "/", "a", "b", "aa", "ab", "é", "€", "x".repeat(130), "y".repeat(130));
  const strings = fc.tuple(fc.tuple(bytes, bytes, bytes, bytes), fc.array(fc.tuple(fc.constantFrom("n", "m"), bytes)));
  const change = fc.option(fc.tuple(fc.nat({ max: 40 }), fc.nat({ max: 255 })), { freq: 4 });
  const steps = fc.array(fc.tuple(strings, fc.nat({ max: 2 }), change, fc.nat({ max: 3 })), {
    minLength: 2,
    maxLength: 30,
  });
  fc.assert(
    fc.property(steps, (all) => {
      const stage = new Stage();
      for (const [[first, pairs], parameters, changed, order] of all) {
        const size = stage.write([...first, ...pairs.flat()], Math.min(parameters, pairs.length));
        if (changed) stage.arena.bytes[changed[0] % size] = changed[1];
        const copy = stage.arena.bytes.slice(0, size);
        const read = (): unknown => {
          const head = stage.reader.read(stage.arena, size);
          return order === 3 ? head.count : contents(head, order);
        };
        const plain = (): unknown => {
          const head = Head.decode(copy, leading);
          return order === 3 ? head.count : contents(head);
        };
        expect(outcome(read)).toEqual(outcome(plain));
      }
    }),
    { numRuns: 1_000 },
  );
});

/** What `run` returns, or the code of its error. */
function outcome(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return (error as { code: string }).code;
  }
}
