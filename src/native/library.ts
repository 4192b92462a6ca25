/** Loads libslotbus, compares its layout with `abi.ts`, and exports its functions. */

import { CString, dlopen, type Pointer, toArrayBuffer } from "bun:ffi";
import { UnsupportedError, VersionMismatchError } from "../errors.ts";
import { systemRefuses } from "../errors/plain.ts";
import { C, FIELDS, SYMBOLS } from "./abi.ts";
import { checkBun, checkPacked, findLibrary } from "./find.ts";

export { detach } from "../detach.ts";
export { C, FIELDS };
export type { Pointer };
/** Version of the protocol between processes. */
export const ABI = C.SB_ABI;

function open() {
  const path = findLibrary();
  checkPacked(path);
  try {
    return dlopen(path, SYMBOLS).symbols; // never closed: a thread may still run its code
  } catch (cause) {
    const what = `Cannot load ${path}: ${(cause as Error).message}`;
    if (process.env["SLOTBUS_LIB"]) throw new UnsupportedError(what, { cause }); // the caller wants this library
    throw systemRefuses(what, cause);
  }
}

/** Throws at the first difference between the library's layout and `abi.ts`. */
function verify(): void {
  const text = String(new CString(native.sb_abi_text() as Pointer));
  const constants: Record<string, number> = C;
  const fields: Record<string, readonly [number, number]> = FIELDS;
  for (const line of text.trim().split("\n")) {
    const [kind, name = "", value, bytes] = line.split(" ");
    const [theirs, ours] =
      kind === "field" ? [`${value}+${bytes}`, fields[name]?.join("+")] : [value, constants[name]?.toString()];
    if (theirs === ours) continue;
    if (name === "SB_ABI") throw new VersionMismatchError("libslotbus", C.SB_ABI, String(theirs));
    throw new UnsupportedError(`libslotbus and abi.ts differ: ${name} is ${theirs}, expected ${ours}.`, {
      hint: "Rebuild the library (`zig build`) and run `npm run generate`.",
    });
  }
}

checkBun(Bun.version);
/** The functions of libslotbus. */
export const native: ReturnType<typeof open> = open();
verify();

/** Returns the index of a shared field in the 32-bit words of its struct. */
export function wordOf(name: keyof typeof FIELDS): number {
  return FIELDS[name][0] / 4;
}

/** Returns a view of `bytes` bytes of native memory. Detach it before that memory is unmapped. */
export function view(address: number, bytes: number): ArrayBuffer {
  return bytes === 0 ? new ArrayBuffer(0) : toArrayBuffer(address as Pointer, 0, bytes);
}

/** Returns `text` as a C string, valid while the result is referenced. */
export function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`, "utf8");
}

/**
 * Returns the text of a native error code; for a failed system call, the system's text:
 * `no such file or directory (ENOENT)`.
 */
export function errorText(code: number): string {
  if (code !== -C.SB_ESYS) return String(new CString(native.sb_error_text(code) as Pointer));
  const number = native.sb_error_number();
  const { getSystemErrorMap } = process.getBuiltinModule("node:util"); // not at the top: loading it takes 0.6 ms
  const [name, text] = getSystemErrorMap().get(-number) ?? [`errno ${number}`, "a system call failed"];
  return `${text} (${name})`;
}
