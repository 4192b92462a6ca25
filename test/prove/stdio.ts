/**
 * Tests the stdio bus and the supervisor with killed processes and very many starts:
 * `bun test/prove/stdio.ts [ci | quick | long]`. Each part is a separate program in `stdio/`: workers killed under load,
 * killed hosts, cycles of start and stop.
 */

import { join } from "node:path";
import { FIGURES, type Figures, figuresLine, readFigures, sizeAsked } from "./figures.ts";

const sum: Figures = {};
let failed = 0;
for (const part of ["kills", "hosts", "cycles"]) {
  process.stdout.write(`-- ${part}\n`);
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "stdio", `${part}.ts`), sizeAsked()], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = (await child.stdout.text()).trimEnd().split("\n");
  process.stdout.write(`${lines.slice(0, -1).join("\n")}\n`);
  const figures = readFigures(lines.at(-1)!);
  if (figures === null || (await child.exited) !== 0) failed++;
  for (const figure of FIGURES) {
    if (figures?.[figure] !== undefined) sum[figure] = (sum[figure] ?? 0) + figures[figure];
  }
}
process.stdout.write(`${failed === 0 ? "kept" : `BROKEN in ${failed} parts`}\n${figuresLine(sum)}\n`);
process.exit(failed === 0 ? 0 : 1);
