/** Responses with a `Bun.file`: handles ranges, slices and the file name in the same way as `Bun.serve`. */

import type { BunFile } from "bun";
import { SlotbusError } from "../errors.ts";
import type { Answer } from "./answer.ts";
import type { WorkerRequest } from "./request.ts";

type Pairs = [name: string, value: string][];

/** Size up to which a file is read whole, in bytes; larger files stream. */
const WHOLE_BYTES = 262_144;

/** A body that is a file or a slice of a file. */
interface FileBody {
  readonly file: BunFile;
  /** Offset of the slice, in bytes. */
  readonly offset: number;
}

/** Content types for which Bun does not send the file name. */
const UNNAMED = /^(?:text|image|audio|video|font)\/|^application\/(?:json|wasm)\b/;

/** Content types of bodies that an app generates: JSON, and text in Hono's spelling. */
const MADE = /^application\/json\b|charset=UTF-8$/;

/** Whether the body may be a file, so that {@link bodyOf} is needed. That call takes microseconds, and more with each header. */
export function mayDiffer({ method, headers }: WorkerRequest, type: string | null): boolean {
  return type === null || method === "HEAD" || !MADE.test(type) || headers.has("range");
}

/**
 * Finds out, without reading it, whether a body is a file, memory or a stream (`null`). Only `Bun.inspect` shows the difference:
 * read as streams, all bodies look the same, and `blob()` would read a stream to its end. An unrecognised body counts as a
 * stream.
 */
export function bodyOf(response: Response): FileBody | "memory" | null {
  // A line break in this field could imitate a body; all other fields before the body take one line each.
  if (response.statusText.includes("\n")) return null;
  const shown = Bun.inspect(response, { colors: false });
  const at = shown.search(/^ {2}(?:FileRef|Blob|File) \(/m);
  if (at < 0) return null;
  if (!shown.startsWith("  FileRef", at)) return "memory";
  const file = Bun.peek<Blob>(response.blob()) as BunFile; // the promise is settled: the file is not read
  // The pattern is anchored at the end, because a path may contain such text.
  return { file, offset: Number(/\n {4}offset: (\d+)\s+\}\s+\}$/.exec(shown)?.[1] ?? 0) };
}

interface Head {
  readonly status: number;
  readonly headers: Pairs;
  readonly contentType: string;
}

/** Returns the response for a file that {@link bodyOf} found. */
export async function answerFile({ file, offset }: FileBody, head: Head, request: WorkerRequest): Promise<Answer> {
  const { name } = file;
  const total = name === undefined ? file.size : Bun.file(name).size;
  const headers = withLength(head.headers, null);
  const isHead = request.method === "HEAD";
  if (total === Infinity) return { ...head, headers, body: isHead ? null : file.stream() }; // a pipe
  const start = Math.min(offset, total);
  const size = Math.min(file.size, total - start); // Bun reports no size for a slice without an end
  if (isHead) return { ...head, headers: withLength(headers, size || (await file.bytes()).length) }; // size 0: the file may not exist
  const isWhole = start === 0 && size === total;
  const isPlain = head.headers.length === 0 && head.contentType === file.type; // the program set no header
  const range = isWhole ? rangeOf(size, head, request) : null;
  if (range === "none") {
    if (size === 0) await file.bytes(); // rejects if the file does not exist
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

/** Streams a file. Fails if the file is truncated meanwhile, because the client could not see that the rest is missing. */
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

/** Returns a header with the last segment of the path, if it needs no quoting. */
function named(path: string | undefined): Pairs {
  const name = path?.slice(path.lastIndexOf("/") + 1) ?? "";
  return /^[ !#-[\]-~]+$/.test(name) ? [["content-disposition", `filename="${name}"`]] : [];
}

/** Returns the requested range, end excluded. `"none"`: it is outside of the file; `null`: the whole file. */
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

/** Whether the client's part belongs to the current version of the file: `if-range` equals the tag or the time of the response. */
function isCurrent(ifRange: string | null, headers: Pairs): boolean {
  if (ifRange === null) return true;
  const from = ifRange.startsWith('"') ? "etag" : "last-modified";
  return headers.some(([name, value]) => name === from && value === ifRange);
}

function has(headers: Pairs, name: string): boolean {
  return headers.some(([one]) => one === name);
}

/** Returns the headers with `content-length` set to `bytes`, or removed if `bytes` is `null`. */
export function withLength(headers: Pairs, bytes: number | null): Pairs {
  const others = headers.filter(([name]) => name !== "content-length");
  return bytes === null ? others : [...others, ["content-length", String(bytes)]];
}
