/** The workflows and templates of `.github/`: what they run exists, actions are pinned, permissions are set, and jobs end. */

import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { notesOf, releaseOf } from "../.github/release.ts";
import manifest from "../package.json";
import { parts } from "./nightly.ts";

const root = join(import.meta.dir, "..");
const folder = join(root, ".github");

interface Step {
  readonly uses?: string;
  readonly run?: string;
  readonly env?: Record<string, string>;
}

interface Job {
  readonly uses?: string;
  readonly permissions?: Record<string, string>;
  readonly steps?: readonly Step[];
  readonly "timeout-minutes"?: number;
  readonly needs?: string;
  readonly strategy?: { readonly matrix: Record<string, readonly string[]> };
}

interface Workflow {
  readonly name: string;
  readonly on: Record<string, unknown>;
  readonly permissions?: Record<string, string>;
  readonly concurrency?: { readonly group: string };
  readonly jobs: Record<string, Job>;
}

interface Template {
  readonly name: string;
  readonly body: readonly {
    readonly type: string;
    readonly id?: string;
    readonly attributes: { readonly label?: string };
  }[];
}

function read(file: string): string {
  return readFileSync(join(folder, file), "utf8");
}

function parse<T>(file: string): T {
  return Bun.YAML.parse(read(file)) as T;
}

const files = readdirSync(join(folder, "workflows"));
const workflows = files.map((file) => [file, parse<Workflow>(`workflows/${file}`)] as const);
const jobs = workflows.flatMap(([file, { jobs: all }]) =>
  Object.entries(all).map(([name, job]) => [`${file} ${name}`, job] as const),
);
const steps = jobs.flatMap(([where, { steps: all = [] }]) => all.map((step) => [where, step] as const));

/** What is wrong with a command: scripts that package.json does not have, files that do not exist. Variables and globs are skipped. */
function wrongWith(command: string, scripts: Record<string, string>, has: (path: string) => boolean): string[] {
  const lines = command.replaceAll(/\\\n\s*/g, " ");
  const named = [...lines.matchAll(/\bnpm run (?:-\S+ )*([\w:-]+)/g)].map(([, name]) => name!);
  if (/\bnpm test\b/.test(lines)) named.push("test");
  const words = lines.split(/[\s;()]+/).map((word) => word.replaceAll(/^["']|["']$/g, ""));
  const paths = words.filter((word) => /^(?:\.?[\w-]+\/)+[\w.-]+$|^[\w-]+\.(?:ts|sh|toml)$/.test(word));
  return [
    ...named.filter((name) => !(name in scripts)).map((name) => `no script ${name}`),
    ...paths.filter((path) => !path.startsWith("node_modules/") && !has(path)).map((path) => `no file ${path}`),
  ];
}

const inCheckout = (path: string): boolean => existsSync(join(root, path));

test("each script and each file that a workflow runs exists", () => {
  const commands = steps.filter(([, { run }]) => run !== undefined);
  expect(commands.length).toBeGreaterThan(15);
  const wrong = commands.flatMap(([where, { run }]) =>
    wrongWith(run!, manifest.scripts, inCheckout).map((what) => `${where}: ${what}`),
  );
  expect(wrong).toEqual([]);
});

test("a script or a file that was renamed is found", () => {
  const found: string[] = [];
  for (const [, { run = "" }] of steps) {
    found.push(...wrongWith(run, {}, () => true)); // all scripts were renamed
    found.push(...wrongWith(run, manifest.scripts, () => false)); // all files were moved
  }
  for (const name of ["setup", "nodes", "check", "lint", "test", "nightly", "package"])
    expect(found).toContain(`no script ${name}`);
  for (const path of [".ci/run", "test/system/install.sh", "test/socket.test.ts", ".github/release.ts"])
    expect(found).toContain(`no file ${path}`);
});

test("actions are pinned by their commit, with the version as a comment, and the same everywhere", () => {
  const pins = new Map<string, Set<string>>();
  for (const file of files)
    for (const [, used = ""] of read(`workflows/${file}`).matchAll(/\buses: (.*)/g)) {
      if (used.startsWith("./")) {
        expect(inCheckout(used)).toBe(true);
        continue;
      }
      const [, action = "none", pin = ""] = /^([\w-]+\/[\w-]+)(@[0-9a-f]{40} # v\d+\.\d+\.\d+)$/.exec(used) ?? [];
      expect(`${file}: ${action}${pin}`).toBe(`${file}: ${used}`);
      pins.set(action, (pins.get(action) ?? new Set()).add(pin));
    }
  expect([...pins.keys()].sort()).toContain("actions/checkout");
  for (const [action, all] of pins) expect([action, all.size]).toEqual([action, 1]);
});

test("a workflow can only read, except the two jobs that publish; each job ends, and keeps no token", () => {
  for (const [file, { permissions, concurrency }] of workflows) {
    expect([file, permissions]).toEqual([file, { contents: "read" }]);
    expect([file, typeof concurrency?.group]).toEqual([file, "string"]);
  }
  const raised = jobs.filter(([, { permissions }]) => permissions !== undefined);
  expect(raised.map(([where, { permissions }]) => [where, permissions])).toEqual([
    ["release.yml publish", { "id-token": "write" }],
    ["release.yml release", { contents: "write" }],
  ]);
  for (const [where, job] of jobs.filter(([, { uses }]) => uses === undefined)) {
    const minutes = job["timeout-minutes"] ?? Infinity;
    expect(`${where}: ${minutes <= 90}`).toBe(`${where}: true`);
  }
  const texts = files.map((file) => read(`workflows/${file}`)).join("\n");
  const count = (text: string): number => texts.split(text).length - 1;
  expect(count("persist-credentials: false")).toBe(count("uses: actions/checkout"));
});

test("commands take what a pusher can choose from variables, not from expressions", () => {
  for (const [where, { run = "" }] of steps) expect(`${where}: ${run.includes("${{")}`).toBe(`${where}: false`);
});

test("nightly.yml has each part of nightly.ts once", () => {
  const { jobs: all } = parse<Workflow>("workflows/nightly.yml");
  expect(all["part"]?.strategy?.matrix["part"]).toEqual(Object.keys(parts));
});

test("a release needs all of CI, and its notes are the section of the changelog for its tag", () => {
  const { jobs: all, on } = parse<Workflow>("workflows/release.yml");
  expect(on).toEqual({ push: { tags: ["v*"] } });
  expect(all["ci"]?.uses).toBe("./.github/workflows/ci.yml");
  expect(parse<Workflow>("workflows/ci.yml").on).toHaveProperty("workflow_call");
  expect([all["package"], all["publish"], all["release"]].map((job) => job?.needs)).toEqual([
    "ci",
    "package",
    "publish",
  ]);

  const changelog =
    "# Changelog\n\n## 1.10.0 (2027-01-02)\n\nTen.\n\n### Part\n\n- a\n\n## 1.1.0 (2026-01-02)\n\nOne.\n\n## 1.0.0\n";
  expect(notesOf(changelog, "1.10.0")).toBe("Ten.\n\n### Part\n\n- a\n");
  expect(notesOf(changelog, "1.1.0")).toBe("One.\n");
  expect(() => notesOf(changelog, "1.0.0")).toThrow("is empty");
  expect(() => notesOf(changelog, "1.1")).toThrow('no section "## 1.1"');
  expect(() => notesOf("## 2.0.0 (unreleased)\n\nx\n", "2.0.0")).toThrow('"(unreleased)"');
  expect(releaseOf("v1.1.0", "1.1.0")).toBe("1.1.0");
  expect(() => releaseOf("1.1.0", "1.1.0")).toThrow("must be v1.1.0");
  expect(readFileSync(join(root, "CHANGELOG.md"), "utf8")).toContain(`\n## ${manifest.version}`);
});

test("the templates for issues ask for the output of doctor, and lead vulnerabilities to SECURITY.md", () => {
  const all = readdirSync(join(folder, "ISSUE_TEMPLATE"));
  expect(all.sort()).toEqual(["bug.yml", "config.yml", "feature.yml"]);
  for (const file of all.filter((one) => one !== "config.yml")) {
    const { name, body } = parse<Template>(`ISSUE_TEMPLATE/${file}`);
    expect(name.length).toBeGreaterThan(2);
    const asked = body.filter(({ type }) => type === "textarea");
    expect(asked.length).toBeGreaterThan(1);
    for (const { id, attributes } of asked) expect(`${id}: ${attributes.label}`).not.toContain("undefined");
  }
  expect(read("ISSUE_TEMPLATE/bug.yml")).toContain("bunx slotbus doctor");
  const { contact_links: links } = parse<{ contact_links: { url: string }[] }>("ISSUE_TEMPLATE/config.yml");
  expect(links.map(({ url }) => basename(url))).toEqual(["policy"]);
  expect(readFileSync(join(root, "SECURITY.md"), "utf8")).toContain("\n## Reporting\n");
});

test("the template for pull requests names scripts that exist", () => {
  const commands = [...read("pull_request_template.md").matchAll(/`(npm [^`]+)`/g)].map(([, command]) => command!);
  expect(commands.length).toBe(3);
  expect(commands.flatMap((command) => wrongWith(command, manifest.scripts, inCheckout))).toEqual([]);
});

/** Runs files of tests as macos.yml does, in a process that says that it runs on macOS; there is no C library. */
function onMacos(...tests: string[]): string {
  const preload = join(import.meta.dir, "fixtures/as-macos.ts");
  const command = [process.execPath, "test", `--config=${join(folder, "macos/bunfig.toml")}`, "--preload", preload];
  const env = { ...process.env, SLOTBUS_WIRE: "socket", SLOTBUS_LIB: "/nonexistent" };
  const { stderr } = Bun.spawnSync([...command, ...tests], { cwd: root, env, stdout: "ignore" });
  return stderr.toString();
}

test("what macos.yml runs needs neither the C library nor /proc", () => {
  const said = onMacos("test/duplex.test.ts", "test/socket.test.ts");
  const failed = said.split("\n").filter((line) => /^\((?:fail|skip)\)/.test(line));
  expect(said).toMatch(/\n +\d{2} pass\n +3 skip\n +0 fail\n/);
  expect(new Set(failed).size).toBe(3);
  // What needs the library or /proc fails. The memory wire is refused with the sentence that macos.yml expects.
  expect(onMacos("test/messages.test.ts")).toContain("/nonexistent");
  expect(onMacos("test/bus.test.ts", "-t", "a create that fails half-way")).toContain("poisoned: readdirSync of /proc");
  const choose = readFileSync(join(root, "src/wires/choose.ts"), "utf8");
  expect(read("workflows/macos.yml")).toContain(
    '"slotbus cannot share memory here: shared memory needs Linux, and this is darwin"',
  );
  expect(choose).toContain("slotbus cannot share memory here: ${why}.");
  expect(choose).toContain("shared memory needs Linux, and this is ${process.platform}");
}, 60_000);
