/** Runs tests of the public API again on the socket wire, except those that need shared memory: `portable-suites.ts` lists them. */

import { expect, test } from "bun:test";
import { portable, runSuite } from "./portable-suites.ts";

for (const [file, left] of Object.entries(portable)) {
  test(`the tests of ${file} pass on the socket wire, except ${left.length}`, async () => {
    const { failed, strange, exitCode, passed } = await runSuite(file, left, { SLOTBUS_WIRE: "socket" });
    expect({ failed, strange, exitCode }).toEqual({ failed: [], strange: [], exitCode: 0 });
    expect(passed).toBeGreaterThan(3);
  }, 120_000);
}
