/** Removes each rule against hostile peers in a copy of the C sources. The inputs must notice that it is gone. */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { attackedRules } from "../mutants/native.ts";
import { mutate } from "../mutants/rule.ts";

const INPUTS = 200_000;

/** What `malformed.ts` lends. */
interface Tools {
  compile(source: string, object: string): Promise<string>;
  link(objects: Iterable<string>, program: string): Promise<string>;
  run(command: string[], minutes?: number): Promise<{ ok: boolean; output: string }>;
}

/** Removes one rule at a time. `objects`: all object files of the program, by name of their source. */
export async function removeRules(
  root: string,
  folder: string,
  objects: ReadonlyMap<string, string>,
  tools: Tools,
  say: (text: string) => void,
): Promise<{ missed: number; survived: string[] }> {
  const survived: string[] = [];
  let missed = 0;
  const judge = async (rule: (typeof attackedRules)[number], index: number): Promise<void> => {
    const source = join(folder, `rule-${index}.c`);
    writeFileSync(source, mutate(readFileSync(join(root, "csrc", rule.file), "utf8"), rule));
    const object = await tools.compile(source, `${source}.o`);
    const inputs = [...objects].map(([name, path]) => (name === `csrc/${rule.file}` ? object : path));
    const program = await tools.link(inputs, join(folder, `rule-${index}`));
    const { ok, output } = await tools.run([program, "1", `${rule.part}:${INPUTS}`]);
    const how = /broken: (.*)|ERROR: (AddressSanitizer: \S+)|runtime error: (.*)/.exec(output);
    const found = !ok && how !== null && !output.includes("it hung");
    if (found) missed++;
    else survived.push(rule.rule);
    const input = /^replay \w+:(\d+)/m.exec(output)?.[1];
    const text = how?.slice(1).find((part) => part !== undefined) ?? output.slice(-300);
    say(`${found ? "missed  " : "SURVIVED"} ${rule.rule} (${rule.part}, input ${input}: ${text})`);
  };
  const queue = attackedRules.entries();
  const judgeAll = async (): Promise<void> => {
    // A rule that does not fit or does not compile stops only itself.
    for (const [index, rule] of queue)
      await judge(rule, index).catch((error: Error) => {
        survived.push(rule.rule);
        say(`SURVIVED ${error.message}`);
      });
  };
  await Promise.all([judgeAll(), judgeAll()]);
  return { missed, survived };
}
