/**
 * Switches off one rule of the protocol at a time, in a copy of the C sources, and expects the native test named here to
 * fail on an assertion. A rule that no test misses is not tested.
 *
 *     bun test/prove/mutants.ts [part of a rule's name]
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");

/** A rule, where it stands, what is left without it, and which test must say so. */
interface Mutant {
  rule: string;
  file: "slot.c" | "wait.c" | "region.c" | "attach.c" | "os_linux.c";
  edits: [text: string, without: string][];
  test: string;
}

const mutants: Mutant[] = [
  {
    rule: "a hub looks again after it has said that it parks",
    file: "wait.c",
    edits: [["if (!link_has_work(hub->links[i])) continue;", "continue;"]],
    test: "a parked hub is rung once for many answers",
  },
  {
    rule: "a worker looks again after it has said that it parks",
    file: "wait.c",
    edits: [["if (!can_take || !worker_has_work(worker)) return 1;", "(void)can_take; return 1;"]],
    test: "a parked worker is rung once for many requests",
  },
  {
    rule: "parking is visible before the look for work (sequential consistency)",
    file: "wait.c",
    edits: [
      [
        "store_seq(&worker->map.region->worker.parked, how);",
        "__atomic_store_n(&worker->map.region->worker.parked, how, __ATOMIC_RELAXED);",
      ],
    ],
    test: "a worker that parks at the moment of a publication sees the request, or is seen and rung",
  },
  {
    rule: "the waker clears the flag before it wakes",
    file: "wait.c",
    edits: [
      ["uint32_t how = exchange_seq(&sleeper->parked, SB_PARK_NONE);", "uint32_t how = load_seq(&sleeper->parked);"],
      [
        "(void)sb_control_send(fd, SB_MSG_BELL, NULL, 0);",
        "(void)sb_control_send(fd, SB_MSG_BELL, NULL, 0); usleep(50); store_seq(&sleeper->parked, SB_PARK_NONE);",
      ],
    ],
    test: "whoever hears a bell finds its parked flag cleared already",
  },
  {
    rule: "each use of a slot is a new generation",
    file: "slot.c",
    edits: [
      ["word_of(generation + 1, SB_WRITING)", "word_of(generation, SB_WRITING)"],
      ["link->generation[slot] = generation + 1;", "link->generation[slot] = generation;"],
    ],
    test: "a request passes FREE, WRITING, READY, CLAIMED, DONE, FREE",
  },
  {
    rule: "a slot whose handler runs is quarantined",
    file: "slot.c",
    edits: [
      [
        "swap_word(&link->map, slot, claimed, word_of(generation, SB_ABANDONED))",
        "swap_word(&link->map, slot, claimed, word_of(generation, SB_FREE))",
      ],
    ],
    test: "a reply after the caller gave up is stale, ends the quarantine",
  },
  {
    rule: "an answer that is there is delivered, whoever gives up",
    file: "slot.c",
    edits: [
      ["return found == 1 && event->kind == SB_EV_DONE ? SB_DONE : -SB_ECORRUPT;", "(void)found; return SB_ABANDONED;"],
    ],
    test: "a caller that gives up after any single instruction of the worker gets the slot back, ",
  },
  {
    rule: "the tick looks at the words themselves",
    file: "slot.c",
    edits: [
      ["int32_t found = slot_event(hub, index, slot, now, event);\n\tif (found != 0 ||", "int32_t found = 0;\n\tif ("],
    ],
    test: "the tick finds a response whose hint was lost",
  },
  {
    rule: "a response's lengths are checked",
    file: "slot.c",
    edits: [["\t\tevent->kind = SB_EV_CORRUPT;\n\t\treturn 1;\n\t}\n\tnote_touched", "\t}\n\tnote_touched"]],
    test: "a response whose head, offset, body or status is out of range is CORRUPT",
  },
  {
    rule: "a request's lengths are checked",
    file: "slot.c",
    edits: [
      ["r->body_offset, r->body_bytes))\n\t\treturn -SB_ECORRUPT;", "r->body_offset, r->body_bytes))\n\t\treturn 1;"],
    ],
    test: "a request whose head, offset or body is out of range is refused",
  },
  {
    rule: "a reply names the claim it answers",
    file: "slot.c",
    edits: [["(uint32_t)worker->generation[slot] == token", "(token == token)"]],
    test: "a worker completes nothing but its own running claim",
  },
  {
    rule: "a claim is answered once",
    file: "slot.c",
    edits: [["worker->generation[slot] = 0; /* a second reply finds no claim */", ""]],
    test: "a second reply to one request is stale and changes nothing of the first",
  },
  {
    rule: "the state is published before its hint",
    file: "slot.c",
    edits: [
      [
        "\tuint64_t claimed = word_of(generation, SB_CLAIMED);\n\tbool done",
        "\tfetch_or_seq(&region->done.bits[slot / 64], 1ULL << (slot % 64));\n" +
          "\tuint64_t claimed = word_of(generation, SB_CLAIMED);\n\tbool done",
      ],
      ["\tfetch_or_seq(&region->done.bits[slot / 64], 1ULL << (slot % 64));\n\tif (done)", "\tif (done)"],
    ],
    test: "a hub that polls and parks after any single instruction of an answer is rung or finds it",
  },
  {
    rule: "hints beyond the last slot are no hints",
    file: "wait.c",
    edits: [
      ["load_seq(&region->done.bits[i]) & slots_mask(link->map.header.slots, i)", "load_seq(&region->done.bits[i])"],
    ],
    test: "a hint bit beyond the last slot keeps neither the hub nor the worker from parking",
  },
  {
    rule: "whole words are compared",
    file: "slot.c",
    edits: [["bool ours = word_generation(word) == link->generation[slot];", "bool ours = true;"]],
    test: "a word no legal step leads to is CORRUPT while a request is in flight",
  },
  {
    rule: "a lost hint of a request is set again",
    file: "slot.c",
    edits: [
      ["\tfetch_or_seq(&link->map.region->ready.bits[slot / 64], 1ULL << (slot % 64));\n\t(void)wake", "\t(void)wake"],
    ],
    test: "the tick finds a response whose hint was lost, and publishes a READY slot's lost hint again",
  },
  {
    rule: "a region that could be resized is refused",
    file: "os_linux.c",
    edits: [["if (seals < 0 || (seals & RESIZE_SEALS) != RESIZE_SEALS) return -SB_ECORRUPT;", "(void)seals;"]],
    test: "a worker takes a sound region and refuses one that is unsealed",
  },
  {
    rule: "the hub looks at the word again after it has copied",
    file: "slot.c",
    edits: [
      [
        "if (!swap_word(&link->map, slot, word_of(generation, SB_DONE), word_of(generation, SB_FREE)))\n\t\treturn -SB_ECORRUPT;",
        "store_seq(&request_line(&link->map, slot)->status, word_of(generation, SB_FREE));",
      ],
    ],
    test: "the hub's own steps find a changed word CORRUPT and do not write over it",
  },
];

/** The text with each edit made; an edit that does not fit exactly once is an error, not a survivor. */
function mutate(text: string, { rule, edits }: Mutant): string {
  let result = text;
  for (const [from, to] of edits) {
    if (result.split(from).length !== 2) throw new Error(`"${rule}": its text stands not exactly once: ${from}`);
    result = result.replace(from, () => to);
  }
  return result;
}

async function run(command: string[], seconds: number): Promise<{ code: number | null; output: string }> {
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: seconds * 1000 });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code: child.signalCode ? null : child.exitCode, output: out + err };
}

const folder = mkdtempSync(join(tmpdir(), "slotbus-mutants-"));
const flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-w", "-pthread", `-I${root}/csrc`];

async function compile(source: string, object: string): Promise<string> {
  const { code, output } = await run(["gcc", ...flags, "-c", source, "-o", object], 60);
  if (code !== 0) throw new Error(`gcc fails on ${source}:\n${output}`);
  return object;
}

/** Resolves to why the mutant survived; `""` when the test named failed on an assertion. */
async function judge(mutant: Mutant, index: number, objects: Map<string, string>): Promise<string> {
  const source = join(folder, `${index}-${mutant.file}`);
  writeFileSync(source, mutate(readFileSync(join(root, "csrc", mutant.file), "utf8"), mutant));
  const mutated = await compile(source, `${source}.o`);
  const inputs = [...objects].map(([file, object]) => (file === mutant.file ? mutated : object));
  const program = join(folder, `test-${index}`);
  const linked = await run(["gcc", "-pthread", "-o", program, ...inputs], 60);
  if (linked.code !== 0) throw new Error(linked.output);
  const { code, output } = await run([program, mutant.test], 60);
  if (/ hung$/m.test(output) || code === null) return "its test hung: that is a time limit, not an assertion";
  if (code === 0) return "no test failed";
  return output.includes(`FAIL ${mutant.test}`) ? "" : `something else failed:\n${output}`;
}

let killed = 0;
let survived = 0;
try {
  const sources = ["csrc", "test/native"].flatMap((name) =>
    readdirSync(join(root, name))
      .filter((file) => file.endsWith(".c") && file !== "os_macos.c")
      .map((file) => [file, join(root, name, file)] as const),
  );
  const objects = new Map<string, string>();
  await Promise.all(
    sources.map(async ([file, path]) => objects.set(file, await compile(path, join(folder, `${file}.o`)))),
  );
  const chosen = mutants.filter(({ rule }) => rule.includes(process.argv[2] ?? ""));
  const queue = chosen.entries();
  const judgeAll = async (): Promise<void> => {
    for (const [index, mutant] of queue) {
      const why = await judge(mutant, index, objects);
      if (why === "") killed++;
      else survived++;
      console.log(`${why === "" ? "killed  " : "SURVIVED"} ${mutant.rule}${why && `\n         ${why}`}`);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, judgeAll));
} finally {
  rmSync(folder, { recursive: true });
}
console.log(`${killed} passed, ${survived} failed`);
process.exit(survived > 0 || killed === 0 ? 1 : 0);
