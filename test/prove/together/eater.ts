/**
 * `together/eater.ts FILE BYTES`: takes memory and frees it, again and again, at most BYTES. Reads the empty FILE all the time
 * unless it is "", so that the cache fills the rest of the memory that its control group may use.
 */

import { openSync, readSync } from "node:fs";

const PIECE = 8 * 2 ** 20;
const [file, bytes] = process.argv.slice(2);
const fd = file ? openSync(file, "r") : -1;
const into = new Uint8Array(PIECE);
let held: Uint8Array[] = [];

/** Reads the next piece of the file; the first pass has no pauses. */
let at = 0;
function read(): boolean {
  at += PIECE;
  return readSync(fd, into, 0, PIECE, at - PIECE) > 0;
}

if (fd >= 0) while (read());
for (;;) {
  if (fd >= 0 && !read()) at = 0;
  if (held.length * PIECE >= Number(bytes)) {
    held = [];
    Bun.gc(true);
    Bun.shrink();
  }
  held.push(new Uint8Array(PIECE).fill(1));
  await Bun.sleep(20);
}
