/** The worker's side of contracts: a handler of the bus that finds, checks and runs their methods. */

import type { Answer, Answerable } from "../bus/answer.ts";
import type { Handler, WorkerRequest } from "../bus/request.ts";
import { type ContractDifference, ContractError, InvalidConfigError, ValidationError } from "../errors.ts";
import { nearest } from "../near.ts";
import { BYTES_TYPE, FAILURE_TYPE, ITEMS_TYPE, json } from "../codec.ts";
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

/** What a request's head says of its call: a head that comes again is not read again. */
interface Route {
  /** The methods that it was found in. */
  methods: Map<string, Served>;
  served: Served | null;
  contentType: string;
  differences: ContractDifference[];
}

/** Longest answer with all methods of a contract. */
const LIST_BYTES = 65_536;

/** The contracts of one worker. */
export class Implementations {
  /** Answers what belongs to no contract. */
  fallback: Handler | null;
  readonly #report: (error: unknown, request: WorkerRequest) => void;
  #methods = new Map<string, Served>();
  readonly #contracts = new Map<string, Contract>();

  /** `report` is told of errors that do not reach the bus by themselves. */
  constructor(fallback: Handler | null, report: (error: unknown, request: WorkerRequest) => void) {
    this.fallback = fallback;
    this.#report = report;
  }

  /** Adds a contract, or replaces the one of its name. Throws {@link InvalidConfigError} unless all methods are there. */
  add<C extends Contract>(contract: C, handlers: Handlers<C>): void {
    const given = handlers as Readonly<Record<string, unknown>>;
    const names = Object.keys(contract.methods);
    const missing = names.filter((name) => typeof given[name] !== "function");
    const unknown = Object.keys(given).filter((name) => !Object.hasOwn(contract.methods, name));
    if (missing.length > 0 || unknown.length > 0) {
      const faults = [
        missing.length > 0 ? `has no handler for ${missing.join(", ")}` : "",
        unknown.length > 0 ? `does not have ${unknown.join(", ")}` : "",
      ];
      throw new InvalidConfigError(`contract "${contract.name}" ${faults.filter(Boolean).join(" and ")}.`, {
        hint: "Give one function per method.",
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

  /** The worker's handler. */
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
      const differences = [{ what: "method", client: wanted, worker: "has none of this name" }];
      return this.#mismatch(request, 404, differences, contract, suggest(wanted, Object.keys(contract.methods)));
    }
    if (this.fallback) return this.fallback(request);
    const names = [...this.#contracts.keys()];
    const differences = [{ what: "contract", client: name, worker: `implements ${names.join(", ")}` }];
    return failure(404, encodeMismatch(differences, suggest(name, names)));
  }

  /** Says in what a method differs, and what all methods of its contract are here, if both have room. */
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

  /** Answers a call; no promise unless a schema or the handler gave one. */
  #call(served: Served, request: WorkerRequest, { contentType }: Route): Answerable | Promise<Answerable> {
    const input = readInput(served, request, contentType);
    return input instanceof Promise ? input.then((value) => run(served, request, value)) : run(served, request, input);
  }

  /** Answers with items. What goes wrong before the handler has given a sequence is an answer of its own. */
  #stream(served: Served, request: WorkerRequest, { contentType }: Route): Answerable | Promise<Answerable> {
    const { method } = served;
    let source: ItemSource | null = null;
    const begin = (items: unknown): Answerable => {
      if (!isSequence(items)) throw new TypeError(`the handler of ${method.path} returned nothing to iterate over`);
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

  /** Bytes of an error within a stream. */
  async #encodeFailure(served: Served, request: WorkerRequest, error: unknown): Promise<Uint8Array> {
    try {
      return await this.#failureOf(served, request, error);
    } catch (other) {
      this.#report(other, request);
      return encodeRemote(other);
    }
  }

  /** Bytes of an error that the client's types know; rejects with any other. */
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
  // JSON is parsed where it lies; bytes are the handler's own, and those of another codec too: what it makes may be views of them.
  const isParsed = contentType !== BYTES_TYPE && method.codec === json;
  return input.check(input.read(contentType, isParsed ? request.peek() : request.body));
}

function readItems(method: ContractMethod, request: WorkerRequest, onLeave: () => void): ItemReader {
  return new ItemReader(method, "worker", request.payloadBytes, async () => request.incoming.chunks(), onLeave, null);
}

function run(served: Served, request: WorkerRequest, input: unknown): Answerable | Promise<Answerable> {
  const output = served.run(input, new CallContext(request, served.errors));
  if (!isThenable(output)) return answer(served, output);
  // Settled already, as of an async function that awaited nothing: no turn is lost.
  if (output instanceof Promise && Bun.peek.status(output) === "fulfilled") {
    return answer(served, Bun.peek(output) as unknown);
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

/** A fault that this side found in the values of this very method. */
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

/** Up to three names that differ little from `wanted`; when there are none, the first three. */
function suggest(wanted: string, names: readonly string[]): string[] {
  const near = nearest(wanted, names, 2);
  return (near.length > 0 ? near : nearest(wanted, names, Infinity)).slice(0, 3);
}
