/** Contracts: the methods that a client may call and a worker implements, as one object that both sides import. */

import { ContractError, InvalidConfigError } from "../errors.ts";
import type { RequestOptions } from "../bus/call.ts";
import { checkCodec, type Codec, json } from "../codec.ts";
import { boolean, custom, type Given as GivenOptions, Options, optional, text } from "../options.ts";
import type { Arriving } from "../jsonify.ts";
import type { CallContext, ErrorShapes } from "./context.ts";
import { describeSchema, type Given, isChecked, isSchema, type Made, type Schema, type Sequence } from "./schema.ts";

/** Options of a call. */
export interface CallOptions extends Omit<RequestOptions, "deadline" | "idle"> {
  /** Headers for the handler (`ctx.headers`). */
  headers?: Readonly<Record<string, string>>;
}

/** Options of a streaming call. `timeout` limits the time until the items begin; `deadline` and `idle` limit the items. */
export interface StreamOptions extends CallOptions, Pick<RequestOptions, "deadline" | "idle"> {}

type Arguments<In, Options> = undefined extends In ? [input?: In, options?: Options] : [input: In, options?: Options];

/** Calls a method and resolves to its output. */
export type Call<In, Out> = (...args: Arguments<In, CallOptions>) => Promise<Out>;
/** Calls a method when the first item is read. Leaving the loop also ends the handler. */
export type StreamCall<In, Item> = (...args: Arguments<In, StreamOptions>) => AsyncGenerator<Item, void, void>;
/** Handles a call. */
export type Handle<In, Out, E extends ErrorShapes> = (input: In, ctx: CallContext<E>) => Out | Promise<Out>;
/** Handles a call by returning items: an async generator, or any other iterable. */
export type StreamHandle<In, Item, E extends ErrorShapes> = (
  input: In,
  ctx: CallContext<E>,
) => Sequence<Item> | Promise<Sequence<Item>>;

/** A method declared by {@link rpc} or {@link stream}. `~call` and `~handle` exist only as types. */
export interface Declaration<C = unknown, H = unknown, E extends ErrorShapes = ErrorShapes> {
  readonly kind: "rpc" | "stream";
  /** Whether the input is a sequence of items. */
  readonly takesItems: boolean;
  readonly input: Schema | null;
  readonly output: Schema | null;
  readonly errors: E;
  readonly idempotent: boolean;
  readonly version: string | null;
  readonly "~call"?: C;
  readonly "~handle"?: H;
}

/** Methods by name. With `{}` for the errors, TypeScript infers no errors from this type. */
export type Methods = Readonly<Record<string, Declaration<unknown, unknown, {}>>>;

const version = optional(
  text(undefined, "1 to 64 characters", (given) => given.isWellFormed() && given.length >= 1 && given.length <= 64),
);

const methodRows = {
  /** Whether calls may run twice (see {@link RequestOptions.idempotent}). A call can override it. */
  idempotent: boolean(false),
  /** Version of the schemas. Sides with the same version count as equal without comparing schemas. Default: the contract's. */
  version,
};

/** Options of a method without schemas. */
export interface MethodOptions extends GivenOptions<typeof methodRows> {}

/** Table of the options of a method. The function `declare` checks the schemas. */
export const methodOptions = new Options("a method", {
  input: custom<Input | undefined>(undefined, "a schema, or `items(schema)`", (given) => given),
  output: custom<Schema | undefined>(undefined, "a schema", (given) => given),
  errors: custom<ErrorShapes | undefined>(undefined, "schemas by code", (given) => given),
  ...methodRows,
});

/** An input that is a sequence of items; created by {@link items}. */
export interface Items<S extends Schema = Schema> {
  readonly "~items": S;
}

type Input = Schema | Items;
type GivenInput<I extends Input> = I extends Items<infer S> ? Sequence<Given<S>> : I extends Schema ? Given<I> : never;
type MadeInput<I extends Input> =
  I extends Items<infer S> ? AsyncIterable<Made<S>> : I extends Schema ? Made<I> : never;

interface SchemaOptions<I extends Input, O extends Schema, E extends ErrorShapes> extends MethodOptions {
  /** Schema of the input, or `items(schema)`. Default: no input. */
  input?: I;
  /** Schema of the output; for a stream, of each item. Default: no output. */
  output?: O;
  /** Errors that the handler may throw: code and schema of the data, `{ NOT_FOUND: schema }`. */
  errors?: E;
}

type NoErrors = Record<never, never>;

/**
 * Declares a method with a single output. Use types alone (not checked at run time), or schemas:
 *
 *     hello: rpc<{ name: string }, { msg: string }>(),
 *     resize: rpc({ input: z.object({ width: z.int() }), output: typed<Uint8Array>(), errors: { TOO_LARGE: z.int() } }),
 *
 * The sender checks a value with its schema and sends it unchanged; the receiver gets the output of the schema. Without a
 * schema, the received type is what JSON preserves ({@link Jsonify}): a `Date` arrives as a string.
 */
export function rpc<In = void, Out = void>(
  options?: MethodOptions,
): Declaration<Call<In, Arriving<Out>>, Handle<Arriving<In>, Out, NoErrors>, NoErrors>;
export function rpc<I extends Input = Schema<void>, O extends Schema = Schema<void>, E extends ErrorShapes = NoErrors>(
  options: SchemaOptions<I, O, E>,
): Declaration<Call<GivenInput<I>, Made<O>>, Handle<MadeInput<I>, Given<O>, E>, E>;
export function rpc(options: SchemaOptions<Input, Schema, ErrorShapes> = {}): Declaration {
  return declare("rpc", options);
}

/** Declares a method whose output is a stream of items; otherwise like {@link rpc}. */
export function stream<In = void, Item = void>(
  options?: MethodOptions,
): Declaration<StreamCall<In, Arriving<Item>>, StreamHandle<Arriving<In>, Item, NoErrors>, NoErrors>;
export function stream<
  I extends Input = Schema<void>,
  O extends Schema = Schema<void>,
  E extends ErrorShapes = NoErrors,
>(
  options: SchemaOptions<I, O, E>,
): Declaration<StreamCall<GivenInput<I>, Made<O>>, StreamHandle<MadeInput<I>, Given<O>, E>, E>;
export function stream(options: SchemaOptions<Input, Schema, ErrorShapes> = {}): Declaration {
  return declare("stream", options);
}

/** As `input` of a method: the caller passes a sequence and the handler gets an `AsyncIterable`. `schema` checks each item. */
export function items<S extends Schema>(schema: S): Items<S> {
  return { "~items": schema };
}

function declare(kind: "rpc" | "stream", options: SchemaOptions<Input, Schema, ErrorShapes>): Declaration {
  const { input, output, errors = {}, idempotent, version: own } = methodOptions.resolve(options);
  const takesItems = input !== undefined && "~items" in input;
  const given = takesItems ? input["~items"] : input;
  for (const [what, schema] of Object.entries({ input: given, output, ...errors })) {
    if (schema === undefined || isSchema(schema)) continue;
    throw new InvalidConfigError(`${what} of the method is not a schema.`, {
      hint: "Pass a Standard Schema (Zod, Valibot, ArkType, …) or typed<T>().",
    });
  }
  for (const code of Object.keys(errors)) {
    if (!methodName.test(code)) {
      throw new InvalidConfigError(`${JSON.stringify(code)} is not a valid error code.`, {
        hint: "Use 1 to 64 letters, digits, _ and $, and do not start with a digit.",
      });
    }
  }
  const checked = (schema: Schema | undefined): Schema | null => (isChecked(schema) ? schema : null);
  return { kind, takesItems, input: checked(given), output: checked(output), errors, idempotent, version: own };
}

/** Header with the client's fingerprint of a method, which the worker compares with its own. */
export const FINGERPRINT = "x-slotbus-contract";

/** A method of a contract. */
export class ContractMethod<M extends Declaration = Declaration> {
  /** Name of the contract. */
  readonly contract: string;
  /** Name of the method. */
  readonly name: string;
  readonly path: string;
  readonly codec: Codec;
  readonly declaration: M;
  readonly version: string;
  #fingerprint: string | null = null;

  /** @internal */
  constructor(contract: string, name: string, declaration: M, codec: Codec, version: string) {
    this.contract = contract;
    this.name = name;
    this.path = `/${contract}/${name}`;
    this.codec = codec;
    this.declaration = declaration;
    this.version = version;
  }

  /** Text that client and worker compare: see {@link FINGERPRINT_FIELDS}. Computed on first use. */
  get fingerprint(): string {
    if (this.#fingerprint !== null) return this.#fingerprint;
    const { kind, takesItems, input, output, errors } = this.declaration;
    const versioned = this.version !== "";
    const codes = versioned ? [] : Object.keys(errors).sort();
    const fields = [
      kind,
      takesItems ? "items" : "value",
      this.codec.contentType,
      this.version,
      versioned ? "" : describeSchema(input, "input"),
      versioned ? "" : describeSchema(output, "output"),
      codes.join(","),
      codes.map((code) => describeSchema(errors[code]!, "output")).join(","),
    ];
    this.#fingerprint = fields.map(encodeURIComponent).join(";");
    return this.#fingerprint;
  }
}

/** Fields of a fingerprint, in order. */
export const FINGERPRINT_FIELDS = [
  "kind",
  "input",
  "codec",
  "version",
  "input schema",
  "output schema",
  "errors",
  "error schemas",
] as const;

/** A contract. Pass its `methods` to {@link isContractError}. */
export interface Contract<M extends Methods = Methods> {
  readonly name: string;
  readonly methods: { readonly [K in keyof M]: ContractMethod<M[K]> };
}

/** Client of a contract, with one function per method: `Client<typeof demo>`. */
export type Client<C extends Contract> = {
  readonly [K in keyof C["methods"]]: NonNullable<C["methods"][K]["declaration"]["~call"]>;
};
/** Handlers of a contract, one function per method: `Handlers<typeof demo>`. */
export type Handlers<C extends Contract> = {
  readonly [K in keyof C["methods"]]: NonNullable<C["methods"][K]["declaration"]["~handle"]>;
};

const contractRows = {
  /** Codec that encodes values as bytes. */
  codec: custom<Codec>(json, "a `Codec`", checkCodec, "JSON"),
  /** Version of all methods without their own `version`. */
  version,
};

/** Table of the options of a contract. */
export const contractOptions = new Options("a contract", contractRows);

/** Options for all methods of a contract. */
export interface ContractOptions extends GivenOptions<typeof contractRows> {}

const contractName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const methodName = /^[A-Za-z_$][\w$]{0,63}$/;
/** A client with `then` would be a promise; `__proto__` would change its prototype. */
const forbidden = new Set(["then", "__proto__"]);

/**
 * Creates a contract between a client and its workers.
 *
 *     export const demo = contract("demo", { hello: rpc<{ name: string }, string>(), count: stream<{ to: number }, number>() });
 *
 * @throws {InvalidConfigError} for an invalid name, method or codec.
 */
export function contract<M extends Methods>(name: string, methods: M, options: ContractOptions = {}): Contract<M> {
  if (!contractName.test(name)) {
    throw new InvalidConfigError(`${JSON.stringify(name)} is not a valid contract name.`, {
      hint: "Use 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit.",
    });
  }
  const { codec, version: usual } = contractOptions.resolve(options);
  const bound: Record<string, ContractMethod> = Object.create(null);
  for (const [key, method] of Object.entries(methods)) {
    if (!methodName.test(key) || forbidden.has(key)) {
      throw new InvalidConfigError(`contract "${name}": ${JSON.stringify(key)} is not a valid method name.`, {
        hint: 'Use 1 to 64 letters, digits, _ and $; do not start with a digit, and do not use "then".',
      });
    }
    if (method?.kind !== "rpc" && method?.kind !== "stream") {
      throw new InvalidConfigError(`contract "${name}": ${key} is not a method.`, {
        hint: "Declare it with rpc() or stream().",
      });
    }
    bound[key] = new ContractMethod(name, key, method, codec, method.version ?? usual ?? "");
  }
  return Object.freeze({ name, methods: Object.freeze(bound) as Contract<M>["methods"] });
}

/** Errors of a method, one type per code. */
type ErrorsOf<M> =
  M extends Declaration<unknown, unknown, infer E> ? { [K in keyof E & string]: ContractError<K, Made<E[K]>> } : never;

/**
 * Returns whether `error` is a declared error of this method, thrown by its handler. Narrows the type, to one code if given.
 *
 *     if (isContractError(error, demo.methods.find, "NOT_FOUND")) error.data.id;
 */
export function isContractError<M extends Declaration, K extends keyof ErrorsOf<M> = keyof ErrorsOf<M>>(
  error: unknown,
  method: ContractMethod<M>,
  code?: K,
): error is ErrorsOf<M>[K] & Error {
  if (!(error instanceof ContractError) || !(method instanceof ContractMethod)) return false;
  if (error.contract !== method.contract || error.method !== method.name) return false;
  return code === undefined ? Object.hasOwn(method.declaration.errors, error.code) : error.code === code;
}
