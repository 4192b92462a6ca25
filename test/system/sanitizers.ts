/** The native tests, and the library inside Bun, under the sanitizers. */

import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Checks, expect, needTool, note, Place, root, run } from "./checks.ts";

function expectTests(output: string): void {
  const passed = /^(\d+) passed, 0 failed$/m.exec(output);
  expect(Number(passed?.[1]) > 100, `too few tests ran:\n${output}`);
}

async function underGccSanitizers(): Promise<void> {
  const gcc = needTool("gcc");
  const folder = mkdtempSync(join(tmpdir(), "slotbus-system-"));
  try {
    const sources = (name: string) => readdirSync(join(root, name)).map((file) => join(root, name, file));
    const files = [...sources("csrc"), ...sources("test/native")];
    const flags =
      "-std=c11 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -O1 -g -pthread " +
      "-DSB_ASSERT -fno-strict-aliasing -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all";
    const program = join(folder, "test-asan");
    const inputs = files.filter((file) => file.endsWith(".c") && !file.endsWith("os_macos.c"));
    await run([gcc, ...flags.split(" "), `-I${root}/csrc`, "-o", program, ...inputs]);
    expectTests(await run([program], { ASAN_OPTIONS: "detect_leaks=1", UBSAN_OPTIONS: "print_stacktrace=1" }));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Tests with the races that only ThreadSanitizer judges: parking over one region and over two. */
const RACES = [
  "a worker that parks at the moment of a publication sees the request, or is seen and rung",
  "a worker that parks over two regions at the moment of publications sees them, or is rung",
];

async function underThreadSanitizer(): Promise<void> {
  const output = await run([needTool("zig"), "build", "tsan"]);
  expectTests(output);
  for (const race of RACES) expect(output.includes(`ok   ${race}`), `this test did not run: ${race}`);
}

// ---- the library in Bun, under AddressSanitizer ----------------------------------------------------------------

/** Test files that use the library a lot, each run in its own Bun. None of them depends on milliseconds. */
export const HARD =
  "link bus stress worker process session request response fetch control stats exchange fleet ring events contest".split(
    " ",
  );
const LANES = 2;
const QUICK = "session";

const SANITIZER = "-fsanitize=address,undefined -fno-sanitize-recover=all";

/** Builds the library from `csrc` with both sanitizers; every report ends the process. */
async function buildForBun(csrc: string, library: string): Promise<void> {
  const flags = `-shared -fPIC -std=c11 -D_GNU_SOURCE -O1 -g -pthread -fvisibility=hidden -fno-strict-aliasing`;
  const files = readdirSync(csrc).filter((file) => file.endsWith(".c") && file !== "os_macos.c");
  const inputs = files.map((file) => join(csrc, file));
  const all = `${flags} -fno-omit-frame-pointer ${SANITIZER}`.split(" ");
  await run([needTool("gcc"), ...all, `-I${csrc}`, "-o", library, ...inputs]);
}

/** Runs a test file in Bun with the library. Resolves to its outcome and its mapped libraries. */
async function testWith(library: string, name: string, folder: string) {
  const runtime = (await run([needTool("gcc"), "-print-file-name=libasan.so"])).trim();
  const list = join(folder, `maps-${name}`);
  const preload = join(import.meta.dir, "maps.ts");
  const child = Bun.spawn([process.execPath, "test", "--preload", preload, `./test/${name}.test.ts`], {
    cwd: root,
    env: {
      ...process.env,
      LD_PRELOAD: runtime,
      ASAN_OPTIONS: "detect_leaks=0", // Bun itself leaks
      UBSAN_OPTIONS: "print_stacktrace=1",
      SLOTBUS_LIB: library,
      SLOTBUS_MAPS: list,
    },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 180_000,
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, output: out + err, maps: existsSync(list) ? readFileSync(list, "utf8") : "" };
}

async function libraryInBun(): Promise<void> {
  using place = new Place();
  const library = join(place.folder, "libslotbus-asan.so");
  await buildForBun(join(root, "csrc"), library);
  let passed = 0;
  const waiting = HARD.slice();
  const lane = async (): Promise<void> => {
    for (let name = waiting.shift(); name; name = waiting.shift()) {
      const { code, output, maps } = await testWith(library, name, place.folder);
      const lines = output.split("\n").filter((line) => !line.startsWith("(pass)"));
      const clean = code === 0 && !/AddressSanitizer|runtime error/.test(output);
      expect(clean, `the tests of ${name} ended with ${code}:\n${lines.slice(-60).join("\n")}`);
      expect(maps.includes(library) && maps.includes("libasan"), `the tests ran with another library:\n${maps}`);
      passed += Number(/^ *(\d+) pass$/m.exec(output)?.[1]);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  note(`${passed} tests of ${HARD.length} files`);
  expect(passed > 200, "too few tests ran");
}

/** Bugs for a copy of the sources: the file, the line before, the code, and the report that it must cause. */
const BUGS = [
  {
    file: "attach.c",
    after: "strcpy(worker->address, address);",
    bug: "volatile size_t bytes = sizeof *worker + 1; memset(worker, 0, bytes);",
    report: "AddressSanitizer: heap-buffer-overflow",
  },
  {
    file: "region.c",
    after: "if (client == NULL) return;",
    bug: "free(client); client->link_count = 0;",
    report: "AddressSanitizer: heap-use-after-free",
  },
  {
    file: "attach.c",
    after: "strcpy(worker->address, address);",
    bug: "volatile int most = 2147483647; most = most + 1;",
    report: "runtime error: signed integer overflow",
  },
];

async function bugsInBunAreReported(): Promise<void> {
  using place = new Place();
  for (const [index, { file, after, bug, report }] of BUGS.entries()) {
    const csrc = join(place.folder, `csrc-${index}`);
    cpSync(join(root, "csrc"), csrc, { recursive: true });
    const text = readFileSync(join(csrc, file), "utf8");
    expect(text.includes(after), `${file} has no "${after}"`);
    writeFileSync(join(csrc, file), text.replace(after, `${after} ${bug}`));
    const library = join(place.folder, `libslotbus-${index}.so`);
    await buildForBun(csrc, library);
    const { code, output } = await testWith(library, QUICK, place.folder);
    expect(code !== 0 && output.includes(report), `a bug that should cause "${report}" ended with ${code}:\n${output}`);
  }
}

export const checks: Checks = {
  "the native tests pass under gcc's AddressSanitizer and UndefinedBehaviorSanitizer": underGccSanitizers,
  "the native tests pass under ThreadSanitizer": underThreadSanitizer,
  "Bun's tests pass with the library under AddressSanitizer and UndefinedBehaviorSanitizer": libraryInBun,
  "the sanitizers report bugs of the library under Bun": bugsInBunAreReported,
};
