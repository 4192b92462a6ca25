/** Contracts: what a client may call and its workers answer, as one object both sides import. */

import { ContractError, InvalidConfigError } from "../errors.ts";
import type { RequestOptions } from "../bus/call.ts";
import { checkCodec, type Codec, json } from "../codec.ts";
import { boolean, custom, type Given as GivenOptions, Options, optional, text } from "../options.ts";
import type { Arriving } from "../jsonify.ts";
import type { CallContext, ErrorShapes } from "./context.ts";
import { describeSchema, type Given, isChecked, isSchema, type Made, type Schema, type Sequence } from "./schema.ts";

/** What a call takes besides its input. */
export interface CallOptions extends Omit<RequestOptions, "deadline" | "idle"> {
  /** Seen by the handler as `ctx.headers`. */
  headers?: Readonly<Record<string, string>>;
}

/** The same of a stream: `timeout` is until its items begin, `deadline` and `idle` are for them. */
export interface StreamOptions extends CallOptions, Pick<RequestOptions, "deadline" | "idle"> {}

type Arguments<In, Options> = undefined extends In ? [input?: In, options?: Options] : [input: In, options?: Options];

/** Calls a method and resolves to its output. */
export type Call<In, Out> = (...args: Arguments<In, CallOptions>) => Promise<Out>;
/** Calls a method when the first item is asked for. Leaving the loop ends it on the other side too. */
export type StreamCall<In, Item> = (...args: Arguments<In, StreamOptions>) => AsyncGenerator<Item, void, void>;
/** Answers a call. */
export type Handle<In, Out, E extends ErrorShapes> = (input: In, ctx: CallContext<E>) => Out | Promise<Out>;
/** Answers with items: an async generator, or anything that can be iterated. */
export type StreamHandle<In, Item, E extends ErrorShapes> = (
  input: In,
  ctx: CallContext<E>,
) => Sequence<Item> | Promise<Sequence<Item>>;

/** A method as {@link rpc} or {@link stream} declare it. `~call` and `~handle` exist as types only. */
export interface Declaration<C = unknown, H = unknown, E extends ErrorShapes = ErrorShapes> {
  readonly kind: "rpc" | "stream";
  /** The input is a sequence of items. */
  readonly takesItems: boolean;
  readonly input: Schema | null;
  readonly output: Schema | null;
  readonly errors: E;
  readonly idempotent: boolean;
  readonly version: string | null;
  readonly "~call"?: C;
  readonly "~handle"?: H;
}

/** Methods by name. `{}`: with no errors declared, none are inferred from here. */
export type Methods = Readonly<Record<string, Declaration<unknown, unknown, {}>>>;

const version = optional(
  text(undefined, "1 to 64 characters", (given) => given.isWellFormed() && given.length >= 1 && given.length <= 64),
);

const methodRows = {
  /** Calls may run twice (see {@link RequestOptions.idempotent}), unless a call says otherwise. */
  idempotent: boolean(false),
  /** Stands for the schemas: two sides of one version are taken to agree. Default: the contract's. */
  version,
};

/** Whether calls of a method may run twice, and its version. */
export interface MethodOptions extends GivenOptions<typeof methodRows> {}

/** The options of a method. What its schemas are is checked as a whole. */
export const methodOptions = new Options("a method", {
  input: custom<Input | undefined>(undefined, "a schema, or `items(schema)`", (given) => given),
  output: custom<Schema | undefined>(undefined, "a schema", (given) => given),
  errors: custom<ErrorShapes | undefined>(undefined, "schemas by code", (given) => given),
  ...methodRows,
});

/** Marks an input as a sequence of items: see {@link items}. */
export interface Items<S extends Schema = Schema> {
  readonly "~items": S;
}

type Input = Schema | Items;
type GivenInput<I extends Input> = I extends Items<infer S> ? Sequence<Given<S>> : I extends Schema ? Given<I> : never;
type MadeInput<I extends Input> =
  I extends Items<infer S> ? AsyncIterable<Made<S>> : I extends Schema ? Made<I> : never;

interface SchemaOptions<I extends Input, O extends Schema, E extends ErrorShapes> extends MethodOptions {
  /** Default: no input. */
  input?: I;
  /** Of a stream: of each item. Default: no output. */
  output?: O;
  /** Errors the handler may throw, with the schema of their data: `{ NOT_FOUND: schema }`. */
  errors?: E;
}

type NoErrors = Record<never, never>;

/**
 * A method that answers once. By types alone, which nothing checks at run time, or by schemas:
 *
 *     hello: rpc<{ name: string }, { msg: string }>(),
 *     resize: rpc({ input: z.object({ width: z.int() }), output: typed<Uint8Array>(), errors: { TOO_LARGE: z.int() } }),
 *
 * A value is sent as it was given, once its schema has passed it; the side that receives it gets what the schema makes.
 * Without a schema its type is what JSON leaves of it ({@link Jsonify}): a `Date` is given, a string arrives.
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

/** A method that answers with any number of items; otherwise as {@link rpc}. */
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

/** As `input` of a method: the caller gives a sequence, the handler gets an `AsyncIterable`; `schema` is of one item. */
export function items<S extends Schema>(schema: S): Items<S> {
  return { "~items": schema };
}

function declare(kind: "rpc" | "stream", options: SchemaOptions<Input, Schema, ErrorShapes>): Declaration {
  const { input, output, errors = {}, idempotent, version: own } = methodOptions.resolve(options);
  const takesItems = input !== undefined && "~items" in input;
  const given = takesItems ? input["~items"] : input;
  for (const [what, schema] of Object.entries({ input: given, output, ...errors })) {
    if (schema === undefined || isSchema(schema)) continue;
    throw new InvalidConfigError(`${what} of a method is not a schema.`, {
      hint: "Give a Standard Schema (of Zod, Valibot, ArkType, …) or typed<T>().",
    });
  }
  for (const code of Object.keys(errors)) {
    if (!methodName.test(code)) {
      throw new InvalidConfigError(`${JSON.stringify(code)} cannot be the code of an error.`, {
        hint: "Use 1 to 64 letters, digits, _ and $.",
      });
    }
  }
  const checked = (schema: Schema | undefined): Schema | null => (isChecked(schema) ? schema : null);
  return { kind, takesItems, input: checked(given), output: checked(output), errors, idempotent, version: own };
}

/** Header that tells a worker what the client takes a method to be. */
export const FINGERPRINT = "x-slotbus-contract";

/** A method in its contract. */
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

  /** What of it two processes can compare, made when it is first needed: see {@link FINGERPRINT_FIELDS}. */
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

/** Fields of a fingerprint in their order. */
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

/** A contract; `methods` are for the guards of errors. */
export interface Contract<M extends Methods = Methods> {
  readonly name: string;
  readonly methods: { readonly [K in keyof M]: ContractMethod<M[K]> };
}

/** What a client of a contract has, one function per method: `Client<typeof demo>`. */
export type Client<C extends Contract> = {
  readonly [K in keyof C["methods"]]: NonNullable<C["methods"][K]["declaration"]["~call"]>;
};
/** What a worker of a contract gives, one function per method: `Handlers<typeof demo>`. */
export type Handlers<C extends Contract> = {
  readonly [K in keyof C["methods"]]: NonNullable<C["methods"][K]["declaration"]["~handle"]>;
};

const contractRows = {
  /** How values become bytes. */
  codec: custom<Codec>(json, "a `Codec`", checkCodec, "JSON"),
  /** Version of the methods that have none of their own. */
  version,
};

/** The options of a contract. */
export const contractOptions = new Options("a contract", contractRows);

/** What holds for all methods of a contract. */
export interface ContractOptions extends GivenOptions<typeof contractRows> {}

const contractName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const methodName = /^[A-Za-z_$][\w$]{0,63}$/;
/** `then` would make a client a promise; the other would change its prototype. */
const forbidden = new Set(["then", "__proto__"]);

/**
 * A contract of the client and its workers.
 *
 *     export const demo = contract("demo", { hello: rpc<{ name: string }, string>(), count: stream<{ to: number }, number>() });
 *
 * @throws {InvalidConfigError} for a name that cannot be one, and what is no method or codec.
 */
export function contract<M extends Methods>(name: string, methods: M, options: ContractOptions = {}): Contract<M> {
  if (!contractName.test(name)) {
    throw new InvalidConfigError(`${JSON.stringify(name)} is not a name of a contract.`, {
      hint: "Use 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit.",
    });
  }
  const { codec, version: usual } = contractOptions.resolve(options);
  const bound: Record<string, ContractMethod> = Object.create(null);
  for (const [key, method] of Object.entries(methods)) {
    if (!methodName.test(key) || forbidden.has(key)) {
      throw new InvalidConfigError(`contract "${name}": ${JSON.stringify(key)} cannot be the name of a method.`, {
        hint: 'Use 1 to 64 letters, digits, _ and $; "then" is taken by promises.',
      });
    }
    if (method?.kind !== "rpc" && method?.kind !== "stream") {
      throw new InvalidConfigError(`contract "${name}": ${key} is not a method.`, { hint: "Use rpc() or stream()." });
    }
    bound[key] = new ContractMethod(name, key, method, codec, method.version ?? usual ?? "");
  }
  return Object.freeze({ name, methods: Object.freeze(bound) as Contract<M>["methods"] });
}

/** Errors of a method, one type per code: a union that `code` tells apart. */
type ErrorsOf<M> =
  M extends Declaration<unknown, unknown, infer E> ? { [K in keyof E & string]: ContractError<K, Made<E[K]>> } : never;

/**
 * Whether `error` was declared by this method, and thrown by its handler; narrows to its codes or to one.
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
