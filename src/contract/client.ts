/** The client of a contract: one function per method. */

import type { Chunks } from "../bus/body-reader.ts";
import type { Asker, BusRequest, RequestOptions } from "../bus/call.ts";
import type { BusResponse } from "../bus/response.ts";
import { ContractMismatchError, InvalidConfigError } from "../errors.ts";
import { BYTES_TYPE, FAILURE_TYPE, ITEMS_TYPE } from "../codec.ts";
import { type CallOptions, type Client, type Contract, type ContractMethod, FINGERPRINT } from "./contract.ts";
import { encodeRemote, readFailure } from "./failure.ts";
import { isSequence, ItemReader, ItemSource } from "./items.ts";
import type { Sequence } from "./schema.ts";
import { Part, typeOf } from "./values.ts";

/** Creates the client that `SlotBus.client` returns. */
export function makeClient<C extends Contract>(bus: Asker, contract: C): Client<C> {
  const client: Record<string, unknown> = Object.create(null);
  const methods = Object.values<ContractMethod>(contract.methods);
  for (const method of methods) {
    const caller = new Caller(bus, method, methods);
    client[method.name] =
      method.declaration.kind === "rpc"
        ? (input: unknown, options?: CallOptions) => caller.call(input, options)
        : (input: unknown, options?: CallOptions) => caller.stream(input, options);
  }
  return Object.freeze(client) as Client<C>;
}

type Pairs = [string, string][];

/** The parts of a response that decide whether it is an output. */
type Reply = Pick<BusResponse, "status" | "contentType" | "body">;

/** One method of one client. */
class Caller {
  readonly #bus: Asker;
  readonly #method: ContractMethod;
  /** All methods of the contract. */
  readonly #methods: readonly ContractMethod[];
  readonly #input: Part;
  readonly #output: Part;
  readonly #options: CallOptions | undefined;
  /** Headers by content type. Reused, so that the bus can reuse the head it encoded before. */
  readonly #headers = new Map<string, Pairs>();

  constructor(bus: Asker, method: ContractMethod, methods: readonly ContractMethod[]) {
    this.#bus = bus;
    this.#method = method;
    this.#methods = methods;
    const { input, output } = method.declaration;
    this.#input = new Part(method, "client", "input", input, false);
    this.#output = new Part(method, "client", "output", output, true);
    this.#options = method.declaration.idempotent ? { idempotent: true } : undefined;
  }

  call(input: unknown, given: CallOptions | undefined): Promise<unknown> {
    const options = this.#resolve(given);
    const read = options?.idempotent ? this.#readRepeated : this.#read;
    try {
      if (this.#method.declaration.takesItems) return this.#callWithItems(input, options).then(read);
      const request = this.#request(input, options);
      const own = ofRequest(options);
      if (request instanceof Promise) return request.then((made) => this.#bus.request(made, own)).then(read);
      return this.#bus.request(request, own).then(read);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  stream(input: unknown, given: CallOptions | undefined): ItemReader {
    const options = this.#resolve(given);
    const items = this.#method.declaration.takesItems && isSequence(input) ? this.#source(input) : null;
    const open = (): Promise<Chunks> => {
      const request = items ? this.#itemsRequest(items, options) : this.#request(input, options);
      if (request instanceof Promise) return request.then((made) => this.#open(made, options));
      return this.#open(request, options);
    };
    const leave = (): void => void items?.return().catch(() => {});
    return new ItemReader(this.#method, "client", this.#bus.options.payloadBytes, open, leave, items);
  }

  /** Sends the request; resolves when the head of the response has arrived. */
  async #open(request: BusRequest, options: CallOptions | undefined): Promise<Chunks> {
    const response = await this.#bus.stream(request, ofRequest(options));
    const { status, contentType } = response;
    if (status !== 200 || contentType !== ITEMS_TYPE) {
      const body = await response.bytes(this.#bus.options.payloadBytes);
      throw await this.#failed({ status, contentType, body }, options?.idempotent === true);
    }
    return response.chunks();
  }

  readonly #read = (reply: Reply): unknown => this.#resultOf(reply, false);
  readonly #readRepeated = (reply: Reply): unknown => this.#resultOf(reply, true);

  /** Returns the output of a response. Throws, or returns a promise that rejects. */
  #resultOf(reply: Reply, idempotent: boolean): unknown {
    const { status, contentType, body } = reply;
    const isValue = status === 200 && (contentType === this.#method.codec.contentType || contentType === BYTES_TYPE);
    const isNothing = status === 204 && contentType === "";
    if (!isValue && !isNothing) return this.#failed(reply, idempotent).then((error) => Promise.reject(error));
    return this.#output.check(this.#output.read(contentType, body));
  }

  #resolve(given: CallOptions | undefined): CallOptions | undefined {
    if (given === undefined || this.#options === undefined || given.idempotent !== undefined) {
      return given ?? this.#options;
    }
    return { ...given, idempotent: true };
  }

  /** Checks the input and returns the request. Throws, or returns a promise that rejects. */
  #request(input: unknown, options: CallOptions | undefined): BusRequest | Promise<BusRequest> {
    if (this.#method.declaration.takesItems) throw notItems(this.#method);
    const checking = this.#input.verify(input);
    return checking ? checking.then(() => this.#valueRequest(input, options)) : this.#valueRequest(input, options);
  }

  #valueRequest(input: unknown, options: CallOptions | undefined): BusRequest {
    const method = this.#method;
    const type = typeOf(method, input);
    const coded = type !== "" && type !== BYTES_TYPE;
    const body = coded ? this.#input.encode(input) : (input as Uint8Array | undefined);
    return { method: "POST", path: method.path, headers: this.#headersOf(type, options), body };
  }

  /** If the input sequence fails, the call rejects with that error and ignores the handler's response. */
  async #callWithItems(input: unknown, options: CallOptions | undefined): Promise<Reply> {
    if (!isSequence(input)) throw notItems(this.#method);
    const items = this.#source(input);
    const reply = await this.#bus.request(this.#itemsRequest(items, options), ofRequest(options)).catch((error) => {
      throw items.failure ? items.failure.error : error;
    });
    if (items.failure) throw items.failure.error;
    return reply;
  }

  #source(input: Sequence<unknown>): ItemSource {
    const { payloadBytes } = this.#bus.options;
    return new ItemSource(this.#method, "client", input, payloadBytes, async (error) => encodeRemote(error));
  }

  #itemsRequest(items: ItemSource, options: CallOptions | undefined): BusRequest {
    return { method: "POST", path: this.#method.path, headers: this.#headersOf(ITEMS_TYPE, options), body: items };
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

  /** Returns the error for a response that is not an output. */
  async #failed({ status, contentType, body }: Reply, idempotent: boolean): Promise<Error> {
    // An idempotent call may have run before, on a worker that died.
    if (contentType === FAILURE_TYPE) return readFailure(this.#method, body, idempotent, this.#methods);
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

/** The options of a call without `headers`: the options of its request. */
function ofRequest(options: CallOptions | undefined): RequestOptions | undefined {
  if (!options || !("headers" in options)) return options;
  const { headers: _, ...rest } = options;
  return rest;
}

function notItems({ contract, name }: ContractMethod): InvalidConfigError {
  return new InvalidConfigError(`The input of ${contract}.${name} must be a sequence of items.`, {
    hint: "Pass an array, a generator or a ReadableStream.",
  });
}
