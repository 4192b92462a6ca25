/** Preloaded into Bun's tests: writes a list of the mapped libraries, which shows which libslotbus ran. */

import { readFileSync, writeFileSync } from "node:fs";
import "../../src/native/library.ts";

const maps = readFileSync("/proc/self/maps", "latin1").split("\n");
const libraries = new Set(maps.map((line) => line.split(/\s+/)[5]).filter((path) => path?.includes(".so")));
writeFileSync(process.env["SLOTBUS_MAPS"]!, [...libraries].join("\n"));
