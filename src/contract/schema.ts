/** Schemas: the Standard Schema interface, and helpers for contracts. */

import type { Arriving } from "../jsonify.ts";
import { sha256 } from "../runtime.ts";

/** A problem of a value, and the path to it. */
export interface SchemaIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** Result of a validation. */
export type SchemaResult<Out> =
  { readonly value: Out; readonly issues?: undefined } | { readonly issues: readonly SchemaIssue[] };

/**
 * A schema: version 1 of https://standardschema.dev, which Zod, Valibot, ArkType and others implement. `In` is the type before
 * validation, `Out` the type after it (with defaults filled in, text converted to numbers, …).
 */
export interface Schema<In = unknown, Out = In> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Out> | Promise<SchemaResult<Out>>;
    readonly types?: { readonly input: In; readonly output: Out } | undefined;
  };
}

/** Input type of a schema. */
export type Given<S extends Schema> = NonNullable<S["~standard"]["types"]>["input"];
/** Output type of a schema. */
export type Made<S extends Schema> = NonNullable<S["~standard"]["types"]>["output"];

/** Items of a stream, as a handler or a caller passes them. */
export type Sequence<T> = AsyncIterable<T> | Iterable<T>;

const typesOnly: Schema = {
  "~standard": { version: 1, vendor: "types", validate: (value) => ({ value }) },
};

/**
 * Declares a type in place of a schema: checked by the compiler, not at run time. `T` is the type that is sent, `Arrives` the
 * type that is received; pass both when the codec of the contract is not JSON: `typed<Date, Date>()`.
 */
export function typed<T, Arrives = Arriving<T>>(): Schema<T, Arrives> {
  return typesOnly as Schema<unknown> as Schema<T, Arrives>;
}

/** Whether values must be checked at run time. */
export function isChecked(schema: Schema | undefined): schema is Schema {
  return schema !== undefined && schema !== typesOnly;
}

export function isSchema(value: unknown): value is Schema {
  if ((typeof value !== "object" && typeof value !== "function") || value === null) return false;
  const standard = (value as Partial<Schema>)["~standard"];
  return standard?.version === 1 && typeof standard.validate === "function";
}

/**
 * Describes a schema so that two processes can compare it: `""` without a schema; its vendor; or its vendor with a digest of
 * the JSON Schema, if the vendor provides one: `"zod:1f0c…"`.
 */
export function describeSchema(schema: Schema | null, side: "input" | "output"): string {
  if (!schema) return "";
  const { vendor } = schema["~standard"];
  try {
    const text = JSON.stringify(jsonSchema(schema, side));
    return text ? `${vendor}:${sha256(text).slice(0, 16)}` : vendor;
  } catch {
    return vendor; // the vendor throws if a schema has no JSON Schema
  }
}

/** The `jsonSchema` extension of Standard Schema, which not every vendor has. */
function jsonSchema(schema: Schema, side: "input" | "output"): unknown {
  const { jsonSchema: maker } = schema["~standard"] as {
    jsonSchema?: Record<"input" | "output", (options: { target: string }) => unknown>;
  };
  return maker?.[side]({ target: "draft-2020-12" });
}
