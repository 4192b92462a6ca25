/** The hub's side of a contract: one function per method. */

import type { SlotBus } from "../bus/bus.ts";
import { ContractError, ContractMismatchError, InvalidConfigError } from "../errors.ts";
import { BYTES_TYPE, FAILURE_TYPE, ITEMS_TYPE } from "./codec.ts";
import {
  type CallOptions,
  type Client,
  type Contract,
  ContractMethod,
  FINGERPRINT,
  type Declaration,
} from "./contract.ts";
import { readFailure } from "./failure.ts";
import { isSequence, readItems, writeItems } from "./items.ts";
import type { Made } from "./schema.ts";
import { type Reply, responseChunks, sendItems } from "./streams.ts";
import { check, encodeValue, readValue, typeOf } from "./values.ts";

/** {@link SlotBus.client}. */
export function makeClient<C extends Contract>(bus: SlotBus, contract: C): Client<C> {
  const client: Record<string, unknown> = Object.create(null);
  for (const method of Object.values<ContractMethod>(contract.methods)) {
    const caller = new Caller(bus, method);
    client[method.name] =
      method.declaration.kind === "rpc"
        ? (input: unknown, options?: CallOptions) => caller.call(input, options)
        : (input: unknown, options?: CallOptions) => caller.stream(input, options);
  }
  return Object.freeze(client) as Client<C>;
}

type Pairs = [string, string][];

/** One method of one client. */
class Caller {
  readonly #bus: SlotBus;
  readonly #method: ContractMethod;
  readonly #options: CallOptions | undefined;
  /** Headers by content type: made once, so that the bus finds the head it wrote before. */
  readonly #headers = new Map<string, Pairs>();

  constructor(bus: SlotBus, method: ContractMethod) {
    this.#bus = bus;
    this.#method = method;
    this.#options = method.declaration.idempotent ? { idempotent: true } : undefined;
  }

  call(input: unknown, given: CallOptions | undefined): Promise<unknown> {
    const options = this.#resolve(given);
    try {
      return this.#send(input, options).then(options?.idempotent ? this.#readRepeated : this.#read);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  readonly #read = (reply: Reply): unknown => this.#output(reply, false);
  readonly #readRepeated = (reply: Reply): unknown => this.#output(reply, true);

  /** The output of a reply. Throws, or the promise rejects. */
  #output(reply: Reply, idempotent: boolean): unknown {
    const { status, contentType, body } = reply;
    const isValue = status === 200 && (contentType === this.#method.codec.contentType || contentType === BYTES_TYPE);
    const isNothing = status === 204 && contentType === "";
    if (!isValue && !isNothing) return this.#failed(reply, idempotent).then(raise);
    const value = readValue(this.#method, "client", "output", contentType, body, true);
    const { output } = this.#method.declaration;
    return output === null ? value : check(this.#method, output, "client", "output", value, true);
  }

  async *stream(input: unknown, given: CallOptions | undefined): AsyncGenerator<unknown, void, void> {
    const options = this.#resolve(given);
    const reply = await this.#send(input, options);
    if (reply.contentType !== ITEMS_TYPE || reply.status !== 200)
      throw await this.#failed(reply, options?.idempotent === true);
    yield* readItems(this.#method, this.#method.declaration.output, "client", "output", responseChunks(reply));
  }

  #resolve(given: CallOptions | undefined): CallOptions | undefined {
    if (given === undefined || this.#options === undefined || given.idempotent !== undefined) {
      return given ?? this.#options;
    }
    return { ...given, idempotent: true };
  }

  /** Checks and sends. Throws, or the promise rejects. */
  #send(input: unknown, options: CallOptions | undefined): Promise<Reply> {
    const { takesItems, input: schema } = this.#method.declaration;
    if (takesItems) return this.#sendItems(input, options);
    const checked = schema === null ? null : check(this.#method, schema, "client", "input", input, false);
    if (checked instanceof Promise) return checked.then(() => this.#sendValue(input, options));
    return this.#sendValue(input, options);
  }

  #sendValue(input: unknown, options: CallOptions | undefined): Promise<Reply> {
    const method = this.#method;
    const type = typeOf(method, input);
    const coded = type !== "" && type !== BYTES_TYPE;
    const body = coded ? encodeValue(method, "client", "input", input, false) : (input as Uint8Array | undefined);
    const headers = this.#headersOf(type, options);
    return this.#bus.request({ method: "POST", path: method.path, headers, body }, options);
  }

  #sendItems(input: unknown, options: CallOptions | undefined): Promise<Reply> {
    const method = this.#method;
    if (!isSequence(input)) throw notItems(method);
    const chunks = writeItems(method, method.declaration.input, "client", "input", input);
    return sendItems(this.#bus, method.path, this.#headersOf(ITEMS_TYPE, options), chunks, options);
  }

  #headersOf(contentType: string, options: CallOptions | undefined): Pairs {
    let headers = this.#headers.get(contentType);
    if (!headers) {
      headers = [[FINGERPRINT, this.#method.fingerprint]];
      if (contentType !== "") headers.push(["content-type", contentType]);
      this.#headers.set(contentType, headers);
    }
    return options?.headers === undefined ? headers : [...headers, ...Object.entries(options.headers)];
  }

  /** The error of an answer that is no output. */
  async #failed({ status, contentType, body }: Reply, idempotent: boolean): Promise<Error> {
    // A call that may run twice may have run before, on a worker that died.
    if (contentType === FAILURE_TYPE) return readFailure(this.#method, body, idempotent);
    const { contract, name, codec, declaration } = this.#method;
    const expected = declaration.kind === "stream" ? ITEMS_TYPE : codec.contentType;
    const worker = `answered ${status} ${contentType || "without a content type"}`;
    return new ContractMismatchError(
      contract,
      name,
      [{ what: "answer", client: `expects ${expected}`, worker }],
      [],
      true,
    );
  }
}

function raise(error: Error): never {
  throw error;
}

function notItems({ contract, name }: ContractMethod): InvalidConfigError {
  return new InvalidConfigError(`the input of ${contract}.${name} is a sequence of items.`, {
    hint: "Give an array, a generator or a ReadableStream.",
  });
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
