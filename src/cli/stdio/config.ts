/**
 * The config of `slotbus stdio`: JSON with the options of `StdioBus.start`, and in `serve` the options of `bus.serve`.
 */

import { readFileSync } from "node:fs";
import { SlotbusError } from "../../errors.ts";
import { fromStdioBusConfig, type StdioBusConfig } from "../../stdio/config.ts";
import { resolveServe, resolveStdioOptions, type ServeOptions, type StdioBusOptions } from "../../stdio/options.ts";
import { refuse } from "../../options.ts";
import { UsageError } from "../usage.ts";
import { faultOf } from "./json.ts";

/** A parsed config. */
export interface StdioConfig {
  readonly options: StdioBusOptions;
  readonly serve: readonly ServeOptions[];
}

/** Returns the text of a file, or of standard input for `-`. */
export async function textOf(file: string): Promise<string> {
  try {
    return file === "-" ? await Bun.stdin.text() : readFileSync(file, "utf8");
  } catch (error) {
    throw new UsageError(`Cannot read the config: ${(error as Error).message}.`);
  }
}

/** Throws unless the pool of a server exists in the config. */
function checkPool(pools: readonly string[], name: string, pool: string | null): void {
  if (pool !== null && !pools.includes(pool)) refuse(name, pool, `the id of a pool (${pools.join(", ")})`);
}

/** Parses and checks a config. `file` names it in errors; `pool` is the value of `--pool`. @throws {UsageError} */
export function parseConfig(text: string, file: string, pool: string | null): StdioConfig {
  const name = file === "-" ? "standard input" : file;
  let given: unknown;
  try {
    given = JSON.parse(text.replace(/^\uFEFF/, "")); // byte order mark
  } catch (error) {
    const { line, column } = faultOf(text);
    throw new UsageError(`${name}:${line}:${column}: ${(error as Error).message}.`);
  }
  if (typeof given !== "object" || given === null || Array.isArray(given))
    throw new UsageError(`${name} must be a JSON object with \`pools\`.`);
  const { serve = [], ...rest } = given as { serve?: unknown } & StdioBusOptions;
  try {
    // The older format has its limits in a separate object.
    const options = "limits" in rest ? fromStdioBusConfig(rest as unknown as StdioBusConfig) : rest;
    const pools = resolveStdioOptions(options).map(({ id }) => id);
    const servers = (Array.isArray(serve) ? serve : [serve]) as ServeOptions[];
    servers.forEach((one, index) => {
      const at = Array.isArray(serve) ? `serve[${index}]` : "serve";
      checkPool(pools, `${at}.pool`, resolveServe(one, at).pool);
    });
    checkPool(pools, "--pool", pool);
    return { options, serve: servers };
  } catch (error) {
    throw error instanceof SlotbusError ? new UsageError(`${name}: ${error.message}`) : error;
  }
}
