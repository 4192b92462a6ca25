/** `Bun.file` in a `Response`: answered as `Bun.serve` does, with ranges, the place of a slice, and a file name. */

import type { BunFile } from "bun";
import { SlotbusError } from "../errors.ts";
import type { Answer } from "./answer.ts";
import type { WorkerRequest } from "./request.ts";

type Pairs = [name: string, value: string][];

/** A file up to this size is read whole, in bytes; a larger one streams. */
const WHOLE_BYTES = 262_144;

/** A body that is a file, or a slice of one. */
interface FileBody {
  readonly file: BunFile;
  /** Where the slice begins. */
  readonly offset: number;
}

/** Types for which Bun does not send the name of the file. */
const UNNAMED = /^(?:text|image|audio|video|font)\/|^application\/(?:json|wasm)\b/;

/** Types that apps give what they make themselves: JSON, and text as Hono names it. */
const MADE = /^application\/json\b|charset=UTF-8$/;

/** Whether to find out what the body is, which costs microseconds, and more with each header. */
export function mayDiffer({ method, headers }: WorkerRequest, type: string | null): boolean {
  return type === null || method === "HEAD" || !MADE.test(type) || headers.has("range");
}

/**
 * Tells what the body is without reading it. Only the inspection of a `Response` says so: as a stream all bodies look the same, and
 * `blob()` would read a stream to its end. A body that is not recognised counts as a stream.
 */
export function bodyOf(response: Response): FileBody | "memory" | null {
  if (response.statusText.includes("\n")) return null; // it could look like a body; all else before the body is one line each
  const shown = Bun.inspect(response, { colors: false });
  const at = shown.search(/^ {2}(?:FileRef|Blob|File) \(/m);
  if (at < 0) return null;
  if (!shown.startsWith("  FileRef", at)) return "memory";
  const file = Bun.peek<Blob>(response.blob()) as BunFile; // it is not read: the promise is settled
  return { file, offset: Number(/\n {4}offset: (\d+)\s+\}\s+\}$/.exec(shown)?.[1] ?? 0) }; // at the end: a path may look like it
}

interface Head {
  readonly status: number;
  readonly headers: Pairs;
  readonly contentType: string;
}

/** The answer with a file that {@link bodyOf} found. */
export async function answerFile({ file, offset }: FileBody, head: Head, request: WorkerRequest): Promise<Answer> {
  const { name } = file;
  const total = name === undefined ? file.size : Bun.file(name).size;
  const headers = withLength(head.headers, null);
  const isHead = request.method === "HEAD";
  if (total === Infinity) return { ...head, headers, body: isHead ? null : file.stream() }; // a pipe
  const start = Math.min(offset, total);
  const size = Math.min(file.size, total - start); // of a slice without an end Bun does not say it
  if (isHead) return { ...head, headers: withLength(headers, size || (await file.bytes()).length) }; // 0: it may not be there
  const isWhole = start === 0 && size === total;
  const isPlain = head.headers.length === 0 && head.contentType === file.type; // no header is the program's own
  const range = isWhole ? rangeOf(size, head, request) : null;
  if (range === "none") {
    if (size === 0) await file.bytes(); // rejects when it is not there
    const own = isPlain ? {} : { contentType: head.contentType };
    return { ...own, status: 416, headers: [...headers, ...place(`*/${size}`), ACCEPTS] };
  }
  if (!UNNAMED.test(head.contentType) && !has(headers, "content-disposition")) headers.push(...named(name));
  if (range) {
    const [from, to] = range;
    headers.push(...place(`${from}-${to - 1}/${size}`), ACCEPTS);
    return { ...head, status: 206, headers, body: await read(file.slice(from, to), to - from) };
  }
  const body = await read(file, size);
  if (isWhole || !isPlain) return { ...head, headers, body };
  headers.push(...place(`${start}-${start + Math.max(size, 1) - 1}/*`));
  return { ...head, status: 206, headers, body };
}

async function read(file: Blob, size: number): Promise<Answer["body"]> {
  return size <= WHOLE_BYTES ? await file.bytes() : pieces(file, size);
}

/** Fails when the file is cut meanwhile: no client would see that the rest is missing. */
async function* pieces(file: Blob, size: number): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const piece of file.stream() as ReadableStream<Uint8Array>) {
    bytes += piece.length;
    yield piece;
  }
  if (bytes < size)
    throw new SlotbusError("RESOURCE", `The file became shorter while it was sent: ${bytes} of ${size} bytes.`);
}

const ACCEPTS: [string, string] = ["accept-ranges", "bytes"];

function place(range: string): Pairs {
  return [["content-range", `bytes ${range}`]];
}

/** Its last part, if that needs no quoting. */
function named(path: string | undefined): Pairs {
  const name = path?.slice(path.lastIndexOf("/") + 1) ?? "";
  return /^[ !#-[\]-~]+$/.test(name) ? [["content-disposition", `filename="${name}"`]] : [];
}

/** The part that the client asks for, its end excluded. `"none"`: there is no such part; `null`: the whole. */
function rangeOf(size: number, { status, headers }: Head, request: WorkerRequest): [number, number] | "none" | null {
  const asked = request.method === "GET" && status === 200 ? request.headers.get("range") : null;
  if (asked === null || has(headers, "content-range") || !isCurrent(request.headers.get("if-range"), headers))
    return null;
  const [, first = "", last = ""] = /^bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})$/i.exec(asked.trim()) ?? [];
  if (first === "") {
    if (last === "" || (size === 0 && Number(last) > 0)) return null;
    return Number(last) === 0 ? "none" : [Math.max(0, size - Number(last)), size];
  }
  if (Number(first) >= size) return "none";
  if (last === "") return [Number(first), size];
  return Number(last) < Number(first) ? null : [Number(first), Math.min(Number(last) + 1, size)];
}

/** Whether the client has a part of what is answered now, as `if-range` says: a strong tag, or a time as it was sent. */
function isCurrent(ifRange: string | null, headers: Pairs): boolean {
  if (ifRange === null) return true;
  const from = ifRange.startsWith('"') ? "etag" : "last-modified";
  return headers.some(([name, value]) => name === from && value === ifRange);
}

function has(headers: Pairs, name: string): boolean {
  return headers.some(([one]) => one === name);
}

/** With this length in place of any other; `null`: none. */
export function withLength(headers: Pairs, bytes: number | null): Pairs {
  const others = headers.filter(([name]) => name !== "content-length");
  return bytes === null ? others : [...others, ["content-length", String(bytes)]];
}
