/** The processes at the other ends of sockets, without the C library: by the process ids that they state. */

import { readFileSync } from "node:fs";
import type { PeerProcess } from "./company.ts";

/** A process of this user. The runtime directory lets no other user connect. */
export class StatedPeer implements PeerProcess {
  readonly pid: number;
  readonly uid = process.geteuid?.() ?? 0;

  constructor(pid: number) {
    this.pid = pid;
  }

  get hasEnded(): boolean {
    if (this.pid <= 0) return true;
    try {
      process.kill(this.pid, 0);
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "ESRCH";
    }
    return isZombie(this.pid);
  }

  forget(): void {}
}

/** Whether a process has ended and its parent has not noticed. */
function isZombie(pid: number): boolean {
  if (process.platform !== "linux") return false;
  try {
    return /^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return true;
  }
}
