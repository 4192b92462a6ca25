/** Runs before the tests on macOS. `test/slots.ts` judges slots of shared memory, and loads the C library: here are none. */

import { mock } from "bun:test";

void mock.module("../../test/slots.ts", () => ({ judgeSlots: () => Promise.resolve() }));
