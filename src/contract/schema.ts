/** Validators: the interface they share, and what a contract knows about one. */

import type { Arriving } from "../jsonify.ts";

/** What is wrong with a value, and where. */
export interface SchemaIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** What a validator says of a value. */
export type SchemaResult<Out> =
  { readonly value: Out; readonly issues?: undefined } | { readonly issues: readonly SchemaIssue[] };

/**
 * A validator: version 1 of the interface of https://standardschema.dev, which Zod, Valibot, ArkType and others have.
 * `In` is what may be given, `Out` what comes out (with defaults filled in, texts made numbers, …).
 */
export interface Schema<In = unknown, Out = In> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Out> | Promise<SchemaResult<Out>>;
    readonly types?: { readonly input: In; readonly output: Out } | undefined;
  };
}

/** What may be given to a schema. */
export type Given<S extends Schema> = NonNullable<S["~standard"]["types"]>["input"];
/** What a schema makes of it. */
export type Made<S extends Schema> = NonNullable<S["~standard"]["types"]>["output"];

/** Items of a stream, as a handler or a caller gives them. */
export type Sequence<T> = AsyncIterable<T> | Iterable<T>;

const typesOnly: Schema = {
  "~standard": { version: 1, vendor: "types", validate: (value) => ({ value }) },
};

/**
 * A type where a schema may be given: the compiler checks it, nothing does at run time. `T` is what is sent, `Arrives` what
 * the other side gets; name it when the codec of the contract is not JSON: `typed<Date, Date>()`.
 */
export function typed<T, Arrives = Arriving<T>>(): Schema<T, Arrives> {
  return typesOnly as Schema<unknown> as Schema<T, Arrives>;
}

/** Whether values must be looked at at run time. */
export function isChecked(schema: Schema | undefined): schema is Schema {
  return schema !== undefined && schema !== typesOnly;
}

export function isSchema(value: unknown): value is Schema {
  if ((typeof value !== "object" && typeof value !== "function") || value === null) return false;
  const standard = (value as Partial<Schema>)["~standard"];
  return standard?.version === 1 && typeof standard.validate === "function";
}

/**
 * What two processes can compare of a schema: `""` when nothing is checked; its vendor, and a digest of its JSON Schema
 * where the vendor gives one: `"zod:1f0c…"`.
 */
export function describeSchema(schema: Schema | null, side: "input" | "output"): string {
  if (!schema) return "";
  const { vendor } = schema["~standard"];
  try {
    const text = JSON.stringify(jsonSchema(schema, side));
    return text ? `${vendor}:${new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 16)}` : vendor;
  } catch {
    return vendor; // it says so by throwing: this schema has no JSON Schema
  }
}

/** An extension of the interface that not every vendor has. */
function jsonSchema(schema: Schema, side: "input" | "output"): unknown {
  const { jsonSchema: maker } = schema["~standard"] as {
    jsonSchema?: Record<"input" | "output", (options: { target: string }) => unknown>;
  };
  return maker?.[side]({ target: "draft-2020-12" });
}
