/** Host of the contestants that run in Node, bundled beside the packages that it imports: `node node.mjs NAME CASE MS`. */

import { fileURLToPath } from "node:url";
import { host, type Run, WORKERS } from "./loop.ts";

/** What both packages have. */
interface Rival {
  run(argument: unknown, options: { name: string }): Promise<unknown>;
}
type Rivals = new (options: object) => Rival;

const filename = fileURLToPath(new URL("./tasks.mjs", import.meta.url));
const sizes = { filename, minThreads: WORKERS, maxThreads: WORKERS };

await host(async (name): Promise<Run> => {
  const [packageName = "", runtime] = name.split("-");
  const { default: Pool, Piscina } = (await import(packageName)) as { default: Rivals; Piscina?: Rivals };
  const pool = new (Piscina ?? Pool)(runtime ? { ...sizes, runtime: "child_process" } : sizes);
  return (task, argument) => pool.run(argument, { name: task });
});
