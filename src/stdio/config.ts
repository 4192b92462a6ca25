/** The older configuration of a stdio bus, with snake_case names. */

import { checkInteger, checkKeys, checkOptions, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import type { StdioBusOptions } from "./options.ts";
import { fromJson } from "./rpc.ts";

const LEGACY_KEYS = ["pools", "limits"];
const LEGACY_POOL_KEYS = ["id", "command", "args", "instances"];
const LEGACY_LIMIT_KEYS = [
  "max_input_buffer",
  "max_output_queue",
  "max_restarts",
  "restart_window_sec",
  "drain_timeout_sec",
  "backpressure_timeout_sec",
];
/** What is different with these fields, and what to use instead. */
const DIFFERENT: readonly [field: string, why: string][] = [
  ["max_input_buffer", "holds for workers only; give `messageBytes` to `bus.serve` for clients"],
  ["max_output_queue", "holds for workers only; give `queuedBytes` to `bus.serve` for clients"],
  [
    "backpressure_timeout_sec",
    "has no effect; use `timeout` for a request that waits and `maxTimeouts` for a stuck worker",
  ],
];
const GIB = 2 ** 30;

/** The older configuration with snake_case names: `{ pools: [{ id, command, args, instances }], limits: { max_restarts, … } }`. */
export interface StdioBusConfig {
  pools: readonly { id: string; command: string; args?: readonly string[]; instances: number }[];
  limits?: {
    /** Bytes of the longest line of a worker. A client's are an option of `bus.serve`. */
    max_input_buffer?: number;
    /** Bytes that may wait for one worker; likewise. */
    max_output_queue?: number;
    max_restarts?: number;
    restart_window_sec?: number;
    drain_timeout_sec?: number;
    /** Accepted and without effect, with a warning: a request has its own timeout. */
    backpressure_timeout_sec?: number;
  };
}

/**
 * Options of a `StdioBus` from an older configuration, JSON or an object, with the meaning and the defaults it had (longest line
 * 1 MiB, 5 restarts in 60 s after a failure, 30 s to drain). One warning (`SlotbusWarning`) names the fields that were given and mean
 * less than they did, and what to use instead.
 *
 * @throws {InvalidConfigError} for what is no JSON, for unknown keys, and for values out of range.
 */
export function fromStdioBusConfig(given: string | StdioBusConfig): StdioBusOptions {
  const config = checkOptions(
    "a configuration",
    typeof given === "string" ? fromJson<StdioBusConfig>(given, "the configuration") : given,
  );
  if ("transport" in config) {
    throw new InvalidConfigError("the configuration has `transport`, which is no option of a bus.", {
      hint: "Take it out, and call `bus.serve({ unix })` or `bus.serve({ tcp })` for clients from outside.",
    });
  }
  checkKeys("the configuration", config, LEGACY_KEYS);
  const limits = checkKeys("limits", config.limits ?? {}, LEGACY_LIMIT_KEYS);
  const seconds = (name: keyof typeof limits, fallback: number): number =>
    1_000 * checkInteger(`limits.${name}`, limits[name] ?? fallback, name === "drain_timeout_sec" ? 0 : 1, 86_400);
  const window = seconds("restart_window_sec", 60);
  const drain = seconds("drain_timeout_sec", 30);
  seconds("backpressure_timeout_sec", 60);
  if (!Array.isArray(config.pools)) {
    throw new InvalidConfigError(`pools is ${shown(config.pools)}; it must be an array of pools.`);
  }
  const restart = {
    policy: "on-failure" as const,
    maxRestarts: checkInteger("limits.max_restarts", limits.max_restarts ?? 5, 0, 1_000_000),
    window,
    giveUp: true,
  };
  const options = {
    pools: config.pools.map((pool, index) => {
      const { id, command, args = [] } = checkKeys(`pools[${index}]`, pool, LEGACY_POOL_KEYS);
      const instances = checkInteger(`pools[${index}].instances`, pool.instances, 1, 1_024);
      return { id, command, args, instances, restart, stop: { drain } };
    }),
    messageBytes: checkInteger("limits.max_input_buffer", limits.max_input_buffer ?? 2 ** 20, 64, GIB),
    queuedBytes: checkInteger("limits.max_output_queue", limits.max_output_queue ?? 4 * 2 ** 20, 1_024, GIB),
  };
  const notes = DIFFERENT.filter(([field]) => limits[field as keyof typeof limits] !== undefined);
  if (notes.length > 0) {
    const text = notes.map(([field, why]) => `limits.${field} ${why}`).join(". ");
    process.emitWarning(`the configuration of a stdio bus: ${text}.`, { type: "SlotbusWarning" });
  }
  return options;
}
