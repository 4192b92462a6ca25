/** What C returned, as the errors of a fleet. */

import {
  FleetBusyError,
  FleetCorruptError,
  FleetFullError,
  FleetNotFoundError,
  InvalidConfigError,
  InvalidNameError,
  NoSpaceError,
  PermissionDeniedError,
  ResourceError,
  type SlotbusError,
  VersionMismatchError,
} from "../errors.ts";
import { C, errorText } from "../native/library.ts";

/** Why a call on a handle failed; `what` was called. */
export function callError(code: number, what: string): SlotbusError {
  switch (-code) {
    case C.SB_EBUSY:
      return new FleetBusyError(what);
    case C.SB_EINVAL:
      return new InvalidConfigError(`${what}: ${errorText(code)}.`);
    case C.SB_ECORRUPT:
      return new FleetCorruptError(`${what}: ${errorText(code)}.`);
    default:
      return new ResourceError(`${what}: ${errorText(code)}.`);
  }
}

/** Why a join failed. */
export function joinError(code: number, name: string, directory: string, members: number): SlotbusError {
  const what = `fleet "${name}"`;
  switch (-code) {
    case C.SB_ENAME:
      return new InvalidNameError(name, "fleet");
    case C.SB_ENOBUS:
      return new FleetNotFoundError(name, directory);
    case C.SB_EFULL:
      return new FleetFullError(name, members);
    case C.SB_EVERSION:
      return new VersionMismatchError(what, C.SB_FLEET_ABI, "another");
    case C.SB_EPERM:
      return new PermissionDeniedError(`the file of ${what} is not ours alone.`);
    case C.SB_ENOSPACE:
      return new NoSpaceError(what);
    case C.SB_ECORRUPT:
      return new FleetCorruptError(`the file of ${what} was cut or overwritten.`, {
        hint: "When no member lives, remove it.",
      });
    case C.SB_EINVAL:
      return new InvalidConfigError(`${what} cannot have these sizes: ${errorText(code)}.`);
    default:
      return new ResourceError(`${what} cannot be joined: ${errorText(code)}.`);
  }
}
