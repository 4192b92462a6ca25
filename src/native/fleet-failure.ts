/** Turns error codes of the C library into the errors of fleets. */

import { lstatSync, statfsSync } from "node:fs";
import { join } from "node:path";
import {
  FleetBusyError,
  FleetFullError,
  FleetNotFoundError,
  InvalidConfigError,
  SlotbusError,
  VersionMismatchError,
} from "../errors.ts";
import { fileError } from "./directory.ts";
import type { FleetGeometry } from "./fleet-geometry.ts";
import { C, errorText, FIELDS, native, view } from "./library.ts";
import { invalidName } from "../errors/plain.ts";

/** Returns the error of a failed call on a handle. `what` starts the message: `"Cannot poll the cursor"`. */
export function callError(code: number, what: string): SlotbusError {
  switch (-code) {
    case C.SB_EBUSY:
      return new FleetBusyError(what);
    case C.SB_EINVAL:
      return new InvalidConfigError(`${what}: ${errorText(code)}.`);
    case C.SB_ECORRUPT:
      return new SlotbusError("FLEET_CORRUPT", `${what}: ${errorText(code)}.`);
    default:
      return new SlotbusError("RESOURCE", `${what}: ${errorText(code)}.`);
  }
}

/** Name and directory of a fleet. */
export interface FleetPlace {
  readonly name: string;
  readonly directory: string;
  /** Descriptor of the directory. */
  readonly fd: number;
}

/** Returns the error of a failed join. For an observer, `geometry` is `null`. */
export function joinError(code: number, place: FleetPlace, geometry: FleetGeometry | null): SlotbusError {
  const { name, directory } = place;
  const what = `fleet "${name}"`;
  const file = join(directory, `${name}.fleet`);
  switch (-code) {
    case C.SB_ENAME:
      return invalidName(name, "fleet");
    case C.SB_ENOBUS:
      return new FleetNotFoundError(name, directory);
    case C.SB_EFULL:
      return new FleetFullError(name, geometry?.maxMembers ?? 0);
    case C.SB_EBUSY:
      return new FleetBusyError(`Cannot join ${what} (${file})`);
    case C.SB_EVERSION:
      return new VersionMismatchError(`Fleet "${name}" (${file})`, C.SB_FLEET_ABI, foundVersion());
    case C.SB_EPERM:
      return new SlotbusError("PERMISSION_DENIED", `${file} is ${whatIs(file)}.`, {
        hint: `Remove it; it must be a regular file of uid ${process.geteuid?.()} with mode 0600 and no other hard link.`,
      });
    case C.SB_ENOSPACE:
      return new SlotbusError("NO_SPACE", `Cannot allocate ${what} (${file}): ${spaceFor(geometry, directory)}.`, {
        hint: "Free space in the runtime directory, or use smaller rings.",
      });
    case C.SB_ECORRUPT:
      return new SlotbusError("FLEET_CORRUPT", `${file} (${whatIs(file)}) is not a valid fleet file.`, {
        hint: "Stop all members, then remove the file.",
      });
    case C.SB_EINVAL:
      return new InvalidConfigError(`The sizes of ${what} are not valid: ${errorText(code)}.`);
    default:
      return fileError(code, `Cannot join ${what} (${file})`);
  }
}

/** Returns the version of the file that this thread's last join rejected. */
function foundVersion(): string {
  const [at] = FIELDS["sb_fleet_header.abi"];
  const [abi] = new Uint32Array(view(native.sb_fleet_found() as unknown as number, at + 4).slice(at));
  return abi === C.SB_FLEET_ABI ? `${abi} of another build` : String(abi);
}

/** Returns `a file of 7 bytes, uid 0, mode 0600, 1 name`. */
function whatIs(path: string): string {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return "gone";
  const { size, uid, nlink } = found;
  const mode = (found.mode & 0o7777).toString(8).padStart(4, "0");
  if (found.isFile())
    return `a file of ${size} bytes, uid ${uid}, mode ${mode}, ${nlink} name${nlink === 1 ? "" : "s"}`;
  const kind = found.isDirectory() ? "a directory" : found.isSymbolicLink() ? "a symbolic link" : "a special file";
  return `${kind}, uid ${uid}, mode ${mode}`;
}

/** Says how much space the rings need at least, and how much is free. */
function spaceFor(geometry: FleetGeometry | null, directory: string): string {
  const rings = (geometry?.rings ?? []).reduce((sum, { frames, frameBytes }) => sum + frames * frameBytes, 0);
  const wanted = `its rings need more than ${Math.floor(rings / 2 ** 20)} MiB`;
  const { bavail, bsize } = statfsSync(directory);
  return `${wanted}, ${Math.floor((bavail * bsize) / 2 ** 20)} MiB are free`;
}
