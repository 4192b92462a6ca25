/**
 * Feeds a hostile peer's bytes to the decoders in TypeScript: heads, the stream of the control socket, bodies of CANCEL and
 * JOIN. Each input must give the value that the decoders written for this file give, or one {@link SlotbusError}.
 *
 *     bun test/prove/malformed/heads.ts SEED FIRST INPUTS
 *
 * Prints what `main.c` prints.
 */

import { Arena, encodeHead, REQUEST_STRINGS } from "../../../src/bus/codec.ts";
import { Head, HeadReader } from "../../../src/bus/head.ts";
import { MessageReader, readCancel } from "../../../src/native/control.ts";
import { readJoin } from "../../../src/native/control.ts";
import { BusResponse, ERROR_STRINGS, RESPONSE_STRINGS, remoteError } from "../../../src/bus/response.ts";
import { SlotbusError } from "../../../src/errors.ts";
import { C } from "../../../src/native/library.ts";
import { Random } from "../soak/request-books.ts";

const FIELDS = [
  "count",
  "parameters",
  "lengths",
  "text",
  "swapped_bytes",
  "head_cut",
  "head_extended",
  "garbage_head",
  "message_type",
  "message_length",
  "message_bytes",
  "stream_cut",
  "cancel_body",
  "join_body",
] as const;
type Field = (typeof FIELDS)[number];
type Outcome = "ACCEPTED" | "REFUSED" | "IGNORED";

const [seed = 1, first = 0, inputs = 1000] = process.argv.slice(2).map(Number);
const SLOW_MS = 50;
const LIMIT = 8192;
const BOUNDARIES = [0, 1, 4, 127, 128, 255];

let random = new Random(seed);
const cells = new Map<string, number>();
let mutations = 0;

function fail(what: string): never {
  throw new Error(what);
}

function mutated(old: number, limit: number, other: number): number {
  const value = random.pick([
    () => old ^ (1 << random.below(8)),
    () => random.pick(BOUNDARIES),
    () => limit + random.below(3) - 1,
    () => old + 1 - 2 * random.below(2),
    () => other,
    () => random.below(256),
  ])();
  return (value & 255) === old ? old ^ (1 << random.below(8)) : value & 255;
}

// ---- heads ------------------------------------------------------------------------------------------------------------

const TEXTS = [
  "",
  "a",
  "/path",
  "x-trace",
  "grün",
  "日本語",
  "🎉🎉",
  "value with spaces",
  "y".repeat(127),
  "z".repeat(200),
];

function someHead(leading: number): { bytes: Uint8Array; text: number } {
  const pairs = random.below(6);
  const strings: string[] = [];
  for (let i = 0; i < leading; i++) strings.push(random.pick(TEXTS));
  for (let i = 0; i < pairs; i++) strings.push(random.pick(["a", "x-trace", "content-length"]), random.pick(TEXTS));
  const arena = new Arena(new ArrayBuffer(LIMIT));
  const parameters = random.below(pairs + 1);
  const first = leading + 2 * parameters;
  const length = encodeHead(arena, strings, parameters, first, LIMIT, "request", leading === ERROR_STRINGS);
  return { bytes: arena.bytes.slice(0, length), text: 4 + strings.length };
}

function mutateHead(field: Field, bytes: Uint8Array, text: number): Uint8Array {
  const at = (from: number, to: number): void => {
    const place = from + random.below(Math.max(1, Math.min(to, bytes.length) - from));
    bytes[place] = mutated(bytes[place]!, bytes.length, bytes[random.below(bytes.length)]!);
  };
  switch (field) {
    case "count":
      at(0, 2);
      return bytes;
    case "parameters":
      at(2, 4);
      return bytes;
    case "lengths":
      at(4, text);
      if (random.chance(0.3)) at(4, text);
      return bytes;
    case "text":
      at(Math.min(text, bytes.length - 1), bytes.length);
      return bytes;
    case "swapped_bytes": {
      const a = random.below(bytes.length);
      const b = random.below(Math.min(bytes.length, text + 4));
      [bytes[a], bytes[b]] = [bytes[b]!, bytes[a]!];
      return bytes;
    }
    case "head_cut":
      return bytes.slice(0, random.below(bytes.length));
    case "head_extended": {
      const longer = new Uint8Array(bytes.length + 1 + random.below(300));
      longer.set(bytes);
      return longer;
    }
    default: {
      const count = random.below(12);
      const garbage = Uint8Array.from({ length: random.below(600) }, () => random.below(256));
      if (random.chance(0.7)) garbage.set([count, 0, random.below(3), 0].slice(0, garbage.length));
      const fits = random.chance(0.3) && count > 0 && garbage.length > 4 + 2 * count;
      if (!fits) return garbage;
      garbage.fill(0, 4, 4 + count);
      garbage[3 + count] = 1 + random.below(100); // one string, of any bytes
      return garbage.slice(0, 4 + count + garbage[3 + count]!);
    }
  }
}

interface Decoded {
  strings: string[];
  parameters: number;
}

/** The format by its description: table, then text. */
function decodeHead(bytes: Uint8Array, leading: number): Decoded | null {
  if (bytes.length < 4) return null;
  const words = new DataView(bytes.buffer, bytes.byteOffset, 4);
  const count = words.getUint16(0, true);
  const parameters = words.getUint16(2, true);
  if (count < leading || (count - leading) % 2 === 1 || leading + 2 * parameters > count) return null;
  const lengths: number[] = [];
  let at = 4;
  for (let i = 0; i < count; i++) {
    let length = 0n;
    for (let n = 0; ; n++) {
      const byte = bytes[at++];
      if (byte === undefined || n === 5) return null;
      length |= BigInt(byte & 127) << BigInt(7 * n);
      if (byte < 128) break;
    }
    lengths.push(Number(length));
  }
  const units = lengths.reduce((sum, length) => sum + length, 0);
  const rest = bytes.subarray(at);
  const one = Array.from(rest, (byte) => String.fromCharCode(byte));
  const text = units === rest.length ? one.join("") : new TextDecoder("utf-8", { ignoreBOM: true }).decode(rest);
  if (text.length !== units) return null;
  let from = 0;
  return { parameters, strings: lengths.map((length) => text.slice(from, (from += length))) };
}

const readers = new Map([REQUEST_STRINGS, RESPONSE_STRINGS].map((leading) => [leading, new HeadReader(leading)]));
const arenas = [0xaa, 0x55].map((fill) => ({ fill, arena: new Arena(new ArrayBuffer(LIMIT + 1024)) }));

/** What a reader makes of a head that lies in memory which holds other bytes behind it. */
function readHead(bytes: Uint8Array, leading: number, reader: HeadReader, which: 0 | 1): Head | SlotbusError {
  const { fill, arena } = arenas[which]!;
  arena.bytes.fill(fill);
  arena.bytes.set(bytes, 0);
  return attempt(() =>
    leading === ERROR_STRINGS
      ? Head.decode(arena.bytes.slice(0, bytes.length), leading)
      : reader.read(arena, bytes.length),
  );
}

function attempt<T>(decode: () => T): T | SlotbusError {
  try {
    return decode();
  } catch (error) {
    if (error instanceof SlotbusError) return error;
    throw error;
  }
}

function headInput(field: Field): Outcome {
  const leading = random.pick([REQUEST_STRINGS, RESPONSE_STRINGS, ERROR_STRINGS]);
  const sound = someHead(leading);
  const bytes = mutateHead(field, sound.bytes, sound.text);
  const expected = decodeHead(bytes, leading);
  const known = readers.get(leading) ?? new HeadReader(leading);
  const head = readHead(bytes, leading, known, 0);
  const again = readHead(bytes, leading, new HeadReader(leading), 1);
  if (head instanceof SlotbusError || again instanceof SlotbusError) {
    if (head instanceof Head || again instanceof Head) fail("bytes behind the head change what it is");
    if (expected) fail(`refused: ${head.message}`);
    if (head.code !== "PROTOCOL") fail(`refused with ${head.code}`);
    return "REFUSED";
  }
  if (!expected) fail("accepted, and it is malformed");
  const strings = head.strings(0, head.count);
  if (Bun.hash(strings.join("\0")) !== Bun.hash(expected.strings.join("\0"))) fail("other strings than were sent");
  if (again.strings(0, again.count).join("\0") !== strings.join("\0")) fail("bytes behind the head are in its strings");
  if (head.parameters !== expected.parameters || head.size !== bytes.length) fail("other parameters, or bytes");
  const at = random.below(head.count);
  if (head.string(at) !== expected.strings[at]) fail(`string ${at} differs`);
  const headers = expected.strings.slice(leading + 2 * expected.parameters);
  if (head.headers.entries().flat().join("\0") !== headers.join("\0")) fail("other headers than were sent");
  if (leading === ERROR_STRINGS) {
    if (!(remoteError(head) instanceof SlotbusError)) fail("an error response was not decoded as an error");
  } else if (leading === RESPONSE_STRINGS) {
    const status = random.pick([200, 204, 205, 304, 404, 599, 200 + random.below(400)]);
    attempt(() => new BusResponse(status, 1, head, bytes).toResponse());
  }
  return "ACCEPTED";
}

// ---- the control socket -----------------------------------------------------------------------------------------------

interface Stream {
  bells: number;
  messages: string[];
}

function parse(bytes: Uint8Array): Stream {
  const stream: Stream = { bells: 0, messages: [] };
  for (let at = 0; at < bytes.length;) {
    if (bytes[at] === C.SB_MSG_BELL) {
      stream.bells++;
      at++;
    } else if (at + 1 < bytes.length && at + 2 + bytes[at + 1]! <= bytes.length) {
      const end = at + 2 + bytes[at + 1]!;
      stream.messages.push(`${bytes[at]} ${bytes.slice(at + 2, end).join()}`);
      at = end;
    } else break;
  }
  return stream;
}

function someStream(): { bytes: Uint8Array; starts: number[] } {
  const bytes: number[] = [];
  const starts: number[] = [];
  for (let n = 1 + random.below(6); n > 0; n--) {
    starts.push(bytes.length);
    const type = random.pick([C.SB_MSG_BELL, C.SB_MSG_CANCEL, C.SB_MSG_DRAIN, C.SB_MSG_GOODBYE, C.SB_MSG_HELLO]);
    if (type === C.SB_MSG_BELL) bytes.push(0);
    else {
      const length = type === C.SB_MSG_CANCEL ? 8 : type === C.SB_MSG_HELLO ? 32 : 0;
      bytes.push(type, length, ...Array.from({ length }, () => random.below(256)));
    }
  }
  return { bytes: Uint8Array.from(bytes), starts };
}

function streamInput(field: Field): Outcome {
  const { starts, bytes } = someStream();
  const sound = parse(bytes);
  const start = random.pick(starts);
  const place = field === "message_type" ? start : field === "message_length" ? start + 1 : random.below(bytes.length);
  if (place < bytes.length) bytes[place] = mutated(bytes[place]!, C.SB_MSG_GOODBYE, bytes[start]!);
  const cut = field === "stream_cut" ? bytes.slice(0, random.below(bytes.length)) : bytes;
  const expected = parse(cut);
  const got: Stream = { bells: 0, messages: [] };
  const reader = new MessageReader();
  const chunk = new Uint8Array(cut.length); // Bun uses its chunk again
  for (let at = 0; at < cut.length;) {
    const end = Math.min(cut.length, at + 1 + random.below(random.pick([2, 12, 300])));
    chunk.fill(0xee);
    chunk.set(cut.subarray(at, end));
    got.bells += reader.read(chunk.subarray(0, end - at), (type, body) => {
      if (body.length > 255) fail("a body of more than 255 bytes");
      got.messages.push(`${type} ${body.join()}`);
      readCancel(body);
    });
    at = end;
  }
  if (got.bells !== expected.bells || got.messages.join("|") !== expected.messages.join("|")) {
    fail("the stream was taken apart in another way than by its description");
  }
  return got.messages.join("|") === sound.messages.join("|") ? "IGNORED" : "ACCEPTED";
}

function cancelInput(): Outcome {
  const body = Uint8Array.from({ length: random.pick([8, random.below(24)]) }, () => random.below(256));
  const offset = random.below(5);
  const around = new Uint8Array(body.length + offset + 16).fill(0xee);
  around.set(body, offset);
  const cancel = readCancel(around.subarray(offset, offset + body.length));
  if ((cancel !== null) !== (body.length === 8)) fail(`a CANCEL of ${body.length} bytes`);
  if (!cancel) return "REFUSED";
  const number = (at: number): number => [3, 2, 1, 0].reduce((sum, i) => sum * 256 + body[at + i]!, 0);
  if (cancel.slot !== number(0) || cancel.token !== number(4)) fail("a CANCEL of another slot");
  return "ACCEPTED";
}

function joinInput(): Outcome {
  const words = new DataView(new ArrayBuffer(24));
  words.setBigUint64(0, 0x0053_5542_5430_4c53n, true);
  words.setBigUint64(0, 0x0053_5542_5430_4c53n, true);
  words.setUint16(8, random.below(3), true);
  words.setUint16(10, random.below(4), true);
  words.setUint32(12, random.below(4), true);
  words.setUint32(16, random.pick([0, 1, 256, 257, 0xffff_ffff]), true);
  const body = new Uint8Array(words.buffer).slice(0, random.pick([24, 24, 12, random.below(25)]));
  const join = readJoin(body);
  if (join.code !== 0 && join.code !== C.SB_EPROTO && join.code !== C.SB_EVERSION) fail(`JOIN gives ${join.code}`);
  if (join.code === 0 && !join.isObserver && !(join.concurrency >= 1 && join.concurrency <= 256)) {
    fail(`a JOIN with concurrency ${join.concurrency} is accepted`);
  }
  return join.code === 0 ? "ACCEPTED" : "REFUSED";
}

// ---- the run ----------------------------------------------------------------------------------------------------------

function runInput(input: number): [Field, Outcome] {
  random = new Random((seed * 0x9e37_79b1 + input * 0x85eb_ca6b) % 2 ** 31);
  const field = random.pick(FIELDS);
  if (field === "cancel_body") return [field, cancelInput()];
  if (field === "join_body") return [field, joinInput()];
  const isStream = field.startsWith("message") || field === "stream_cut";
  return [field, isStream ? streamInput(field) : headInput(field)];
}

/** The machine may have been elsewhere: an input is slow when it takes as much processor time each time. */
function timed(input: number): number {
  const began = performance.now();
  const [field, outcome] = runInput(input);
  const ms = performance.now() - began;
  const key = `${field} ${outcome}`;
  cells.set(key, (cells.get(key) ?? 0) + 1);
  mutations++;
  if (ms <= SLOW_MS) return ms;
  const again = Array.from({ length: 4 }, () => {
    const start = process.cpuUsage();
    runInput(input);
    return process.cpuUsage(start).user / 1000;
  });
  const least = Math.min(ms, ...again);
  if (least > SLOW_MS) fail(`it takes ${least.toFixed(0)} ms`);
  return least;
}

let slowest = 0;
let input = first;
try {
  for (; input < first + inputs; input++) {
    if (input % 10_000 === 0) process.stdout.write(`reached heads ${input}\n`);
    slowest = Math.max(slowest, timed(input));
  }
} catch (error) {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stdout.write(`breach other\nbroken: ${text}\nreplay heads:${input}+1\n`);
  process.exit(1);
}
for (const field of FIELDS) {
  for (const outcome of ["ACCEPTED", "CORRUPT", "REFUSED", "ENDED", "IGNORED"]) {
    process.stdout.write(`cell heads ${field} ${outcome} ${cells.get(`${field} ${outcome}`) ?? 0}\n`);
  }
}
process.stdout.write(`ran heads ${inputs} ${mutations} ${Math.round(slowest * 1000)}\n`);
