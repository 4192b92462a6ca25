/** The configuration format of older stdio buses, with snake_case names. */

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
/** Fields whose meaning has changed, and their replacement. */
const DIFFERENT: readonly [field: string, why: string][] = [
  ["max_input_buffer", "applies to workers only; for clients, pass `messageBytes` to `bus.serve`"],
  ["max_output_queue", "applies to workers only; for clients, pass `queuedBytes` to `bus.serve`"],
  [
    "backpressure_timeout_sec",
    "has no effect; set `timeout` for requests that wait and `maxTimeouts` for stuck workers",
  ],
];
const GIB = 2 ** 30;

/**
 * A configuration in the older format, with snake_case names:
 *
 *     { pools: [{ id, command, args, instances }], limits: { max_restarts, … } }
 */
export interface StdioBusConfig {
  pools: readonly { id: string; command: string; args?: readonly string[]; instances: number }[];
  limits?: {
    /** Longest line of a worker, in bytes. For clients use `messageBytes` of `bus.serve`. */
    max_input_buffer?: number;
    /** Bytes that may wait for one worker. For clients use `queuedBytes` of `bus.serve`. */
    max_output_queue?: number;
    max_restarts?: number;
    restart_window_sec?: number;
    drain_timeout_sec?: number;
    /** Ignored with a warning: requests have their own timeout. */
    backpressure_timeout_sec?: number;
  };
}

/**
 * Returns options of a `StdioBus` for a configuration in the older format, given as JSON or as an object. It keeps the meaning
 * and the defaults of that format: lines up to 1 MiB, 5 restarts in 60 s after a failure, 30 s to drain. A warning
 * (`SlotbusWarning`) names the given fields whose meaning has changed, and their replacement.
 *
 * @throws {InvalidConfigError} for invalid JSON, unknown keys and values out of range.
 */
export function fromStdioBusConfig(given: string | StdioBusConfig): StdioBusOptions {
  const config = checkOptions(
    "a configuration",
    typeof given === "string" ? fromJson<StdioBusConfig>(given, "The configuration") : given,
  );
  if ("transport" in config) {
    throw new InvalidConfigError("The configuration has `transport`, which is not an option of a bus.", {
      hint: "Remove it; to serve clients, call `bus.serve({ unix })` or `bus.serve({ tcp })`.",
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
    process.emitWarning(`Configuration of a stdio bus: ${text}.`, { type: "SlotbusWarning" });
  }
  return options;
}
