/** Contracts of a worker: a bus handler that finds the method of a request, checks the values and calls the handler. */

import type { Answer, Answerable } from "../bus/answer.ts";
import type { Handler, WorkerRequest } from "../bus/request.ts";
import { type ContractDifference, ContractError, InvalidConfigError, ValidationError } from "../errors.ts";
import { nearest } from "../near.ts";
import { BYTES_TYPE, FAILURE_TYPE, ITEMS_TYPE, json } from "../codec.ts";
import { peek, peekStatus } from "../runtime.ts";
import { compare } from "./compare.ts";
import { CallContext, type ErrorMakers, type ErrorShapes } from "./context.ts";
import { type Contract, type ContractMethod, FINGERPRINT, type Handlers } from "./contract.ts";
import { encodeDeclared, encodeMismatch, encodeRemote, encodeValidation, isDeclared } from "./failure.ts";
import { isSequence, isThenable, ItemReader, ItemSource } from "./items.ts";
import { Part, typeOf } from "./values.ts";

type Run = (input: unknown, ctx: CallContext) => unknown;

/** A method with its handler. */
interface Served {
  method: ContractMethod;
  run: Run;
  errors: ErrorMakers<ErrorShapes>;
  input: Part;
  output: Part;
}

/** The method that a request head leads to. Cached on the head, which requests share. */
interface Route {
  /** Methods at the time of the lookup; the entry is stale when they change. */
  methods: Map<string, Served>;
  served: Served | null;
  contentType: string;
  differences: ContractDifference[];
}

/** Longest failure that lists all methods of a contract, in bytes. */
const LIST_BYTES = 65_536;

/** The contracts of one worker. */
export class Implementations {
  /** Handles requests that belong to no contract. */
  fallback: Handler | null;
  readonly #report: (error: unknown, request: WorkerRequest) => void;
  #methods = new Map<string, Served>();
  readonly #contracts = new Map<string, Contract>();

  /** `report` gets errors that are not thrown to the bus. */
  constructor(fallback: Handler | null, report: (error: unknown, request: WorkerRequest) => void) {
    this.fallback = fallback;
    this.#report = report;
  }

  /** Adds a contract, or replaces the contract with the same name. Throws {@link InvalidConfigError} if handlers are missing. */
  add<C extends Contract>(contract: C, handlers: Handlers<C>): void {
    const given = handlers as Readonly<Record<string, unknown>>;
    const names = Object.keys(contract.methods);
    const missing = names.filter((name) => typeof given[name] !== "function");
    const unknown = Object.keys(given).filter((name) => !Object.hasOwn(contract.methods, name));
    if (missing.length > 0 || unknown.length > 0) {
      const faults = [
        missing.length > 0 ? `handlers are missing for ${missing.join(", ")}` : "",
        unknown.length > 0 ? `it has no method ${unknown.join(", ")}` : "",
      ];
      throw new InvalidConfigError(`contract "${contract.name}": ${faults.filter(Boolean).join("; ")}.`, {
        hint: "Pass one function per method.",
      });
    }
    const methods = new Map([...this.#methods].filter(([, { method }]) => method.contract !== contract.name));
    for (const method of Object.values<ContractMethod>(contract.methods)) {
      const run = (given[method.name] as Run).bind(handlers);
      const input = new Part(method, "worker", "input", method.declaration.input, false);
      const output = new Part(method, "worker", "output", method.declaration.output, true);
      methods.set(method.path, { method, run, errors: makeErrors(method), input, output });
    }
    this.#methods = methods;
    this.#contracts.set(contract.name, contract);
  }

  /** Handler for all requests of the worker. */
  readonly handle: Handler = (request) => {
    let route = request.head.note as Route | null;
    if (route === null || route.methods !== this.#methods) route = this.#route(request);
    const { served } = route;
    if (served === null) return this.#elsewhere(request);
    if (route.differences.length > 0)
      return this.#mismatch(request, 409, route.differences, this.#contracts.get(served.method.contract)!);
    try {
      const isCall = served.method.declaration.kind === "rpc";
      const answer = isCall ? this.#call(served, request, route) : this.#stream(served, request, route);
      return answer instanceof Promise ? answer.catch((error) => this.#failed(served, request, error)) : answer;
    } catch (error) {
      return this.#failed(served, request, error);
    }
  };

  #route(request: WorkerRequest): Route {
    const methods = this.#methods;
    const served = methods.get(request.path) ?? null;
    const theirs = request.headers.get(FINGERPRINT);
    const ours = served?.method.fingerprint;
    const differences = ours === undefined || theirs === null || theirs === ours ? [] : compare(theirs, ours);
    const route = { methods, served, contentType: request.headers.get("content-type") ?? "", differences };
    request.head.note = route;
    return route;
  }

  #elsewhere(request: WorkerRequest): ReturnType<Handler> {
    const { path } = request;
    const slash = path.indexOf("/", 1);
    const name = path.slice(1, slash < 0 ? undefined : slash);
    const contract = this.#contracts.get(name);
    if (contract && slash > 0) {
      const wanted = path.slice(slash + 1);
      const differences = [{ what: "method", client: wanted, worker: "has no such method" }];
      return this.#mismatch(request, 404, differences, contract, suggest(wanted, Object.keys(contract.methods)));
    }
    if (this.fallback) return this.fallback(request);
    const names = [...this.#contracts.keys()];
    const differences = [{ what: "contract", client: name, worker: `implements ${names.join(", ")}` }];
    return failure(404, encodeMismatch(differences, suggest(name, names)));
  }

  /** Responds with the differences of a method and, if they fit, the fingerprints of all methods of the contract. */
  #mismatch(
    { payloadBytes }: WorkerRequest,
    status: number,
    differences: readonly ContractDifference[],
    { methods }: Contract,
    near: readonly string[] = [],
  ): Answer {
    const all = Object.values<ContractMethod>(methods).map(({ name, fingerprint }) => [name, fingerprint] as const);
    const whole = encodeMismatch(differences, near, Object.fromEntries(all));
    const fits = whole.length <= Math.min(payloadBytes, LIST_BYTES);
    return failure(status, fits ? whole : encodeMismatch(differences, near));
  }

  /** Runs a call. Returns a promise only if a schema or the handler returns one. */
  #call(served: Served, request: WorkerRequest, { contentType }: Route): Answerable | Promise<Answerable> {
    const input = readInput(served, request, contentType);
    return input instanceof Promise ? input.then((value) => run(served, request, value)) : run(served, request, input);
  }

  /** Runs a streaming call. Errors before the handler has returned a sequence are sent as a plain failure. */
  #stream(served: Served, request: WorkerRequest, { contentType }: Route): Answerable | Promise<Answerable> {
    const { method } = served;
    let source: ItemSource | null = null;
    const begin = (items: unknown): Answerable => {
      if (!isSequence(items)) throw new TypeError(`The handler of ${method.path} did not return an iterable.`);
      source = new ItemSource(method, "worker", items, request.payloadBytes, (error) =>
        this.#encodeFailure(served, request, error),
      );
      return { contentType: ITEMS_TYPE, body: source };
    };
    const start = (input: unknown): Answerable | Promise<Answerable> => {
      const items = served.run(input, new CallContext(request, served.errors));
      return isThenable(items) ? Promise.resolve(items).then(begin) : begin(items);
    };
    if (method.declaration.takesItems) return start(readItems(method, request, () => source?.sayEnough()));
    const input = readInput(served, request, contentType);
    return input instanceof Promise ? input.then(start) : start(input);
  }

  /** Encodes an error within a stream. */
  async #encodeFailure(served: Served, request: WorkerRequest, error: unknown): Promise<Uint8Array> {
    try {
      return await this.#failureOf(served, request, error);
    } catch (other) {
      this.#report(other, request);
      return encodeRemote(other);
    }
  }

  /** Encodes a declared error or a failed validation; rejects with any other error. */
  async #failureOf({ method }: Served, request: WorkerRequest, error: unknown): Promise<Uint8Array> {
    if (isDeclared(method, error)) {
      try {
        return await encodeDeclared(method, error);
      } catch (refused) {
        if (!isOurs(method, refused)) throw refused;
        this.#report(refused, request);
        return encodeValidation(refused);
      }
    }
    if (!isOurs(method, error)) throw error;
    if (error.part !== "input") this.#report(error, request);
    return encodeValidation(error);
  }

  async #failed(served: Served, request: WorkerRequest, error: unknown): Promise<Answerable> {
    return failure(isDeclared(served.method, error) ? 422 : 400, await this.#failureOf(served, request, error));
  }
}

function readInput({ method, input }: Served, request: WorkerRequest, contentType: string): unknown {
  if (method.declaration.takesItems) return readItems(method, request, () => {});
  // JSON is parsed from shared memory. Bytes are copied, also for other codecs, whose values may be views of the bytes.
  const isParsed = contentType !== BYTES_TYPE && method.codec === json;
  return input.check(input.read(contentType, isParsed ? request.peek() : request.body));
}

function readItems(method: ContractMethod, request: WorkerRequest, onLeave: () => void): ItemReader {
  return new ItemReader(method, "worker", request.payloadBytes, async () => request.incoming.chunks(), onLeave, null);
}

function run(served: Served, request: WorkerRequest, input: unknown): Answerable | Promise<Answerable> {
  const output = served.run(input, new CallContext(request, served.errors));
  if (!isThenable(output)) return answer(served, output);
  // An async function that awaited nothing is settled already: this saves a turn of the event loop.
  if (output instanceof Promise && peekStatus(output) === "fulfilled") {
    return answer(served, peek(output as Promise<unknown>));
  }
  return Promise.resolve(output).then((value) => answer(served, value));
}

function answer(served: Served, value: unknown): Answerable | Promise<Answerable> {
  const checking = served.output.verify(value);
  return checking ? checking.then(() => encodeAnswer(served, value)) : encodeAnswer(served, value);
}

function encodeAnswer({ method, output }: Served, value: unknown): Answer | null {
  const contentType = typeOf(method, value);
  if (contentType === "") return null;
  return { contentType, body: contentType === BYTES_TYPE ? (value as Uint8Array) : output.encode(value) };
}

function failure(status: number, body: Uint8Array): Answer {
  return { status, contentType: FAILURE_TYPE, body };
}

/** Whether the error is a failed validation of this method on this side. */
function isOurs({ contract, name }: ContractMethod, error: unknown): error is ValidationError {
  return (
    error instanceof ValidationError && error.side === "worker" && error.contract === contract && error.method === name
  );
}

function makeErrors({ contract, name, declaration }: ContractMethod): ErrorMakers<ErrorShapes> {
  const makers: Record<string, (data?: unknown, message?: string) => ContractError> = Object.create(null);
  for (const code of Object.keys(declaration.errors)) {
    makers[code] = (data, message) => new ContractError(contract, name, code, data, message);
  }
  return Object.freeze(makers);
}

/** Returns up to three names similar to `wanted`, or the three nearest if none is similar. */
function suggest(wanted: string, names: readonly string[]): string[] {
  const near = nearest(wanted, names, 2);
  return (near.length > 0 ? near : nearest(wanted, names, Infinity)).slice(0, 3);
}
