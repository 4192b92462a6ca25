/** The units of the pages, read by Debian's systemd. */

import { writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { blocksOf, fileOf, pages } from "../docs-blocks.ts";
import { type Checks, expect, needTool, note, Place } from "./checks.ts";

async function unitsOfThePages(): Promise<void> {
  const analyze = needTool("systemd-analyze");
  using place = new Place();
  const units = pages.flatMap(blocksOf).filter((block) => fileOf(block)?.endsWith(".service"));
  expect(units.length > 1, `the pages have ${units.length} units`);
  for (const block of units) {
    const name = basename(fileOf(block)!);
    // Programs and users of the page do not exist on this machine.
    const unit = block.code.replaceAll(/\/srv\/\S*\/slotbus/g, "/bin/true").replaceAll(/^User=.*/gm, "User=root");
    writeFileSync(join(place.folder, name), unit);
    const child = Bun.spawn([analyze, "verify", "--man=no", `./${name}`], {
      cwd: place.folder,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [complaints, code] = await Promise.all([child.stderr.text(), child.exited]);
    expect(code === 0 && complaints === "", `${block.page}:${block.line}: systemd says of ${name}: ${complaints}`);
  }
  note(`${units.length} units`);
}

export const checks: Checks = {
  "systemd accepts the units of the pages": unitsOfThePages,
};
