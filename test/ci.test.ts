/** `ci.ts` and what it is made of: a failure is named, a test that vanishes is noticed, and only what was proved is recorded. */

import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { readJunit } from "./ci/junit.ts";
import { report, type Stage } from "./ci/stages.ts";
import { proofs } from "./prove/proofs.ts";
import { filesOf, Inputs, inputsOf, PROVED, ProvedRecord, sample, SHARE } from "./prove/proved.ts";
import { Place } from "./system/checks.ts";

const bun = process.execPath;

/** Runs these stages as CI does; resolves to the exit code and the lines after all output of the stages. */
async function ci(place: Place, stages: Stage[]): Promise<{ code: number; end: string[] }> {
  const file = join(place.folder, "stages.json");
  writeFileSync(file, JSON.stringify(stages));
  const command = [bun, join(import.meta.dir, "ci.ts"), "--stages", file];
  const env = { ...process.env, TMPDIR: place.folder }; // a run without tests leaves its folder
  const child = Bun.spawn(command, { env, stdio: ["ignore", "pipe", "ignore"] });
  const [text, code] = await Promise.all([child.stdout.text(), child.exited]);
  const lines = text.trimEnd().split("\n");
  return { code, end: lines.slice(lines.findLastIndex((line) => line.startsWith("times: ")) + 1) };
}

/** A stage of `bun test` with this one file. */
function suite(place: Place, text: string, more: Partial<Stage> = {}): Stage {
  const file = join(place.folder, "odd.test.ts");
  writeFileSync(file, `import { describe, expect, test } from "bun:test";\n${text}`);
  const command = ["sh", "-c", 'exec "$0" test "$1" --reporter=junit --reporter-outfile="$3/report.xml"', bun, file];
  return { name: "tests", command, reads: "junit", ...more };
}

test("each failed test is named at the end, with the first lines of its failure", async () => {
  using place = new Place();
  const text = `
    describe("group", () => test('has "quotes" & <more>', () => expect([1, { a: 1 }]).toEqual([1, { a: 2 }])));
    test("hangs", () => Bun.sleep(60_000), 20);
    test("is good", () => {});`;
  const { code, end } = await ci(place, [
    suite(place, text),
    { name: "broken", command: ["sh", "-c", "echo why; exit 3"] },
  ]);
  expect(code).toBe(1);
  expect(end[0]).toEndWith('odd.test.ts: group > has "quotes" & <more>');
  expect(end[0]).toStartWith("FAILED tests: ");
  expect(end.slice(1, 3)).toEqual(["    AssertionError: expect(received).toEqual(expected)", "      ["]);
  expect(end).toContain("    test timed out");
  expect(end.slice(-3)).toEqual(["FAILED broken: exit code 3", "    why", "1 passed, 3 failed"]);
});

test("a file that cannot be loaded and a crash are failures with their text", async () => {
  using place = new Place();
  const broken = await ci(place, [suite(place, 'import "./missing.ts";')]);
  expect(broken.code).toBe(1);
  expect(broken.end.join("\n")).toMatch(
    /^FAILED tests: an error outside of tests\n.*missing\.ts[^]*\n0 passed, 1 failed$/,
  );
  const crashed = await ci(place, [suite(place, 'test("dies", () => process.kill(process.pid, "SIGKILL"));')]);
  expect(crashed.code).toBe(1);
  expect(crashed.end[0]).toBe("FAILED tests: exit code 137");
  expect(crashed.end.at(-1)).toBe("0 passed, 1 failed");
});

test("a test that vanishes, or is skipped without a reason in the list, fails the run", async () => {
  using place = new Place();
  const two = 'test("runs", () => {}); test.skip("rests", () => {});';
  const stage = suite(place, two);
  const few = await ci(place, [{ ...stage, least: 3 }]);
  expect(few.code).toBe(1);
  expect(few.end).toContain("    2 tests; test/ci.json expects at least 3.");
  const name = few.end.find((line) => line.startsWith("FAILED"))!.slice("FAILED tests: ".length);
  expect(name).toEndWith("odd.test.ts: rests");
  const listed = await ci(place, [{ ...stage, least: 2, skips: [{ test: name, reason: "none" }] }]);
  expect(listed).toEqual({ code: 0, end: ["1 passed, 0 failed"] });
});

test("a process that a stage leaves does not hold the run up", async () => {
  using place = new Place();
  const pid = join(place.folder, "pid");
  const { end } = await ci(place, [{ name: "leaver", command: ["sh", "-c", `sleep 600 & echo $! > ${pid}`] }]);
  process.kill(Number(readFileSync(pid, "utf8")), "SIGKILL");
  expect(end).toEqual(["1 passed, 0 failed"]);
}, 60_000);

test("a stage that tells its outcomes is counted by them, and what is recorded is not counted", async () => {
  using place = new Place();
  const program = join(place.folder, "tells.ts");
  const told = `import { tell } from ${JSON.stringify(join(import.meta.dir, "outcomes.ts"))};
    tell({ name: "one", verdict: "passed" });
    tell({ name: "two", verdict: "recorded", count: 4 });
    if (process.argv[2]) tell({ name: "three", verdict: "failed", lines: ["why"] });`;
  writeFileSync(program, told);
  const stage = (...words: string[]): Stage => ({
    name: "proofs",
    command: [bun, program, ...words],
    reads: "outcomes",
  });
  const recorded = "recorded, not run and not counted: proofs 4";
  expect(await ci(place, [stage()])).toEqual({ code: 0, end: [recorded, "1 passed, 0 failed"] });
  const failed = await ci(place, [{ ...stage("fail"), least: 6 }]);
  expect(failed.code).toBe(1);
  expect(failed.end).toEqual([recorded, "FAILED proofs: three", "    why", "1 passed, 1 failed"]);
});

test("a failure shows at most 12 lines, all of them at most 60, and each is named", () => {
  const lines = Array.from({ length: 40 }, (_, index) => `line ${index}`);
  const failures = Array.from({ length: 9 }, (_, index) => ({ name: `test ${index}`, lines }));
  const text = report([{ stage: "s", seconds: 61.5, passed: 3, failures, seeds: ["7", "8"], recorded: [] }]);
  const said = text.trimEnd().split("\n");
  expect(said.slice(0, 2)).toEqual(["times: s 1:01; all 1:01", "seeds of s: 7, 8"]);
  expect(said.filter((line) => line.startsWith("FAILED s: test "))).toHaveLength(9);
  expect(said.filter((line) => line === "    line 11")).toHaveLength(5);
  expect(said.filter((line) => line.startsWith("    "))).toHaveLength(60);
  expect(said.at(-1)).toBe("3 passed, 9 failed");
});

test("the report of bun test is read with its groups, skips and entities", () => {
  const xml = `<testsuites><testsuite name="a">
    <testcase name="one" classname="" time="0" file="a.test.ts" line="1" assertions="1" />
    <testcase name="&lt;two&gt;" classname="g &amp; h" file="a.test.ts"><failure type="Error" message="m">E&#10;at x</failure>
    </testcase><testcase name="three" classname="" file="b.test.ts"><skipped /></testcase></testsuite></testsuites>`;
  expect(readJunit(xml)).toEqual([
    { name: "a.test.ts: one", verdict: "passed", text: "" },
    { name: "a.test.ts: g & h > <two>", verdict: "failed", text: "E\nat x" },
    { name: "b.test.ts: three", verdict: "skipped", text: "" },
  ]);
});

// ---- what is proved once ---------------------------------------------------------------------------------------------

/** A checkout with the real `run.ts` and these proofs. */
class Checkout extends Place {
  readonly record = new ProvedRecord(join(this.folder, PROVED));

  constructor(programs: { [name: string]: string }) {
    super();
    for (const file of ["outcomes.ts", "prove/run.ts", "prove/proved.ts", "prove/figures.ts"])
      this.write(`test/${file}`, readFileSync(join(import.meta.dir, file), "utf8"));
    const rows = Object.keys(programs).map((name) => [name, { program: `test/prove/${name}.ts`, again: "whole" }]);
    this.write("test/prove/proofs.ts", `export const proofs = ${JSON.stringify(Object.fromEntries(rows))};`);
    for (const [name, text] of Object.entries(programs)) this.write(`test/prove/${name}.ts`, text);
  }

  write(file: string, text: string): void {
    mkdirSync(dirname(join(this.folder, file)), { recursive: true });
    writeFileSync(join(this.folder, file), text);
  }

  /** Names of what is recorded. */
  get recorded(): string[] {
    return Object.keys(JSON.parse(readFileSync(join(this.folder, PROVED), "utf8")) as object);
  }

  async prove(...options: string[]): Promise<{ code: number; text: string }> {
    const command = [bun, join(this.folder, "test/prove/run.ts"), "--ci", ...options];
    const child = Bun.spawn(command, { stdio: ["ignore", "pipe", "ignore"] });
    const [text, code] = await Promise.all([child.stdout.text(), child.exited]);
    return { code, text };
  }
}

const GOOD = 'console.log("kills 3, lost 0");';

test("a proof that passed whole is recorded, one that failed is not, nor one whose inputs changed meanwhile", async () => {
  using checkout = new Checkout({
    good: GOOD,
    bad: `${GOOD} process.exitCode = 1;`,
    restless: `import { appendFileSync } from "node:fs"; appendFileSync(import.meta.path, "//"); ${GOOD}`,
    mute: "",
  });
  const { code, text } = await checkout.prove("--record");
  expect(code).toBe(1);
  expect(text).toContain("2 passed, 2 failed\nrequests 0, streams 0, kills 6,");
  expect(checkout.recorded).toEqual(["proof good"]);
  checkout.write("test/prove/good.ts", "throw new Error()");
  await checkout.prove("--record", "good");
  expect(checkout.recorded).toEqual([]);
});

test("what is recorded is not run, except for a sample and with --all; a changed import makes it run", async () => {
  const program = `import "./part.ts"; ${GOOD}`;
  using checkout = new Checkout({ one: program, two: program, three: GOOD });
  checkout.write("test/prove/part.ts", "export {};");
  expect((await checkout.prove()).text).toContain("\n3 passed, 0 failed\n");
  await checkout.prove("--record");
  expect(checkout.recorded).toHaveLength(3);
  const { text } = await checkout.prove();
  expect(text.match(/recorded: proved on 20\d\d-\d\d-\d\d: kills 3, lost 0/g)).toHaveLength(2);
  expect(text).toMatch(/, a sample \d+ s\n1 passed, 0 failed\nrequests 0, streams 0, kills 3,/);
  expect((await checkout.prove("--all")).text).toContain("\n3 passed, 0 failed\n");
  checkout.write("test/prove/part.ts", "export const changed = true;");
  const changed = await checkout.prove();
  expect(changed.text).toMatch(/\nci: one \d+ s; two \d+ s; three, a sample \d+ s\n3 passed, 0 failed\n/);
});

test("a hash covers imports, includes, files that a text names and the size, not files that comments name", () => {
  using place = new Place();
  const write = (file: string, text: string): void => writeFileSync(join(place.folder, file), text);
  write("a.ts", 'import { b } from "./b.ts"; // see "d.ts"\nspawn(join(here, "tool.c"), b);');
  write("b.ts", "export const b = 1;");
  write("tool.c", '#include "tool.h"');
  for (const file of ["tool.h", "d.ts"]) write(file, "");
  const closure = (): string[] => new Inputs(place.folder).closure(["a.ts"]);
  expect(closure()).toEqual(["a.ts", "b.ts", "tool.c", "tool.h"]);
  const hash = (...more: string[]): string => new Inputs(place.folder).hash(closure(), ...more);
  const first = hash("ci");
  expect(hash("ci")).toBe(first);
  expect(hash("long")).not.toBe(first);
  write("d.ts", "changed");
  expect(hash("ci")).toBe(first);
  for (const file of ["b.ts", "tool.h"]) {
    const before = hash("ci");
    write(file, "// changed");
    expect(hash("ci")).not.toBe(before);
  }
});

test("packages that a check installs in a folder of its inputs do not count as inputs", () => {
  using place = new Place();
  mkdirSync(join(place.folder, "docs/node_modules/lunr"), { recursive: true });
  writeFileSync(join(place.folder, "docs/hub.md"), "");
  writeFileSync(join(place.folder, "docs/node_modules/lunr/test.js"), "function (_, _) {}");
  expect(filesOf(["docs"], place.folder)).toEqual(["docs/hub.md"]);
});

test("every file of the proofs and the models belongs to a proof", () => {
  const inputs = new Inputs();
  const known = new Set(Object.values(proofs).flatMap((proof) => inputsOf(proof, inputs)));
  for (const file of filesOf(["csrc", "src"])) expect(known.has(file), file).toBe(true);
  const apart = ["run.ts", "proofs.ts"].map((file) => `test/prove/${file}`);
  // Rules have a record of their own.
  const isRule = (file: string): boolean => file.startsWith("test/prove/mutants/");
  const lost = filesOf(["test/prove", "test/model"]).filter(
    (file) => !known.has(file) && !isRule(file) && file !== PROVED,
  );
  expect(lost.sort()).toEqual(apart.sort());
});

test("a sample has at least one of all, and a twentieth of their weight", () => {
  expect(sample([])).toEqual([]);
  expect(sample(["only"])).toEqual(["only"]);
  const hundred = Array.from({ length: 100 }, (_, index) => index);
  for (let n = 0; n < 50; n++) {
    expect(new Set(sample(hundred)).size).toBe(5);
    const weight = sample(hundred, (one) => one).reduce((sum, one) => sum + one, 0);
    expect(weight).toBeGreaterThanOrEqual(4_950 * SHARE);
  }
});
