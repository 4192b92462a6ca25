/** A process of a pool: loads the module and runs its functions. */

import type { Answer } from "../bus/answer.ts";
import type { WorkerRequest } from "../bus/request.ts";
import { nearest } from "../near.ts";
import { SlotWorker } from "../slot-worker.ts";
import { decodeValues, encodeValues } from "./clone.ts";
import { failureOf, Refusal } from "./failure.ts";
import { encodeItem } from "./items.ts";
import { running, type Task } from "./task.ts";

/** Environment variable with the {@link Assignment} of a process. */
export const POOL_VARIABLE = "SLOTBUS_POOL";
/** Results from this size on are written into shared memory at once, in bytes. */
const RESERVE_BYTES = 65_536;
/** Number of function names that an error lists. */
const NAMES_SHOWN = 8;

/** What a process of a pool runs. */
export interface Assignment {
  /** URL of the module. */
  module: string;
  concurrency: number;
  /** Version of Bun that the pool runs. */
  bun: string;
}

/** Version of Bun that this process runs. Clones of values can be read by the same version only. */
export const BUN_VERSION = `${Bun.version} (${Bun.revision.slice(0, 9)})`;

type Run = (...args: unknown[]) => unknown;

/** Serves the pool that started this process. Does nothing in other processes. */
export async function servePool(): Promise<void> {
  const given = process.env[POOL_VARIABLE];
  if (given === undefined) return;
  delete process.env[POOL_VARIABLE]; // not for processes that tasks start
  const { module, concurrency, bun } = JSON.parse(given) as Assignment;
  if (bun !== BUN_VERSION) {
    console.error(`The pool runs Bun ${bun}, but its new process runs Bun ${BUN_VERSION}. Restart the pool's program.`);
    process.exit(1);
  }
  let exports: Readonly<Record<string, unknown>> | Refusal;
  try {
    exports = (await import(module)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    const why = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    const message = `The pool's module ${module} cannot be loaded. ${why.replace(/\.$/, "")}.`;
    exports = new Refusal("MODULE_FAILED", message, "Fix it, then start the pool again.", false, error);
  }
  const worker = await SlotWorker.open({ concurrency });
  worker.serve((request) => handle(exports, module, request));
}

function handle(
  exports: Readonly<Record<string, unknown>> | Refusal,
  module: string,
  request: WorkerRequest,
): Answer | Promise<Answer> {
  try {
    if (exports instanceof Refusal) throw exports;
    const run = find(exports, module, request.path);
    const args = decodeValues(request.peek(), true);
    const call = taskOf(request);
    const value = running.run(call, run, ...args);
    const answer = request.query === "stream" ? streamed : whole;
    if (!(value instanceof Promise)) return answer(request, call, value);
    return value.then((result) => answer(request, call, result)).catch((error) => failed(error));
  } catch (error) {
    return failed(error);
  }
}

function taskOf(request: WorkerRequest): Task {
  return {
    name: request.path,
    id: request.id,
    get signal() {
      return request.signal;
    },
    get deadline() {
      return request.deadline;
    },
  };
}

function failed(error: unknown): Answer {
  const whole = failureOf(error);
  const body = encodeValues([whole], () => "The error of a task");
  return { status: 500, body };
}

/** @throws {Refusal} if the module does not export such a function. */
function find(exports: Readonly<Record<string, unknown>>, module: string, name: string): Run {
  const found = exports[name];
  if (typeof found === "function") return found as Run;
  const names = Object.keys(exports).filter((one) => typeof exports[one] === "function");
  const [near] = nearest(name, names);
  const listed = `It exports ${names.slice(0, NAMES_SHOWN).join(", ") || "no functions"}.`;
  const message = `The pool's module ${module} has no function ${JSON.stringify(name.slice(0, 64))}.`;
  throw new Refusal("UNKNOWN_FUNCTION", message, near ? `Did you mean ${near}?` : listed, false);
}

/** An iterator of a result that streams; `null` for any other result. */
function iteratorOf(value: unknown): AsyncIterator<unknown> | Iterator<unknown> | null {
  if (typeof value !== "object" || value === null) return null;
  const { [Symbol.asyncIterator]: start, next } = value as Partial<AsyncIterableIterator<unknown>>;
  if (typeof start === "function") return start.call(value as AsyncIterableIterator<unknown>);
  return typeof next === "function" ? (value as Iterator<unknown>) : null;
}

function whole(request: WorkerRequest, _: Task, value: unknown): Answer {
  const { path } = request;
  const iterator = iteratorOf(value);
  if (iterator) {
    void Promise.resolve(iterator.return?.()).catch(() => {});
    throw new Refusal("UNKNOWN_FUNCTION", `${path} returns a stream.`, `Call pool.stream("${path}", …).`, true);
  }
  const reserve = (bytes: number): Uint8Array => {
    const shared = bytes < RESERVE_BYTES ? null : request.reserve(bytes);
    return shared?.length === bytes ? shared : Buffer.allocUnsafe(bytes); // shorter when the caller has gone
  };
  return { body: sent(() => encodeValues([value], () => `The result of ${path}`, reserve)) };
}

/** Turns an error of the clone into the caller's error. */
function sent<T>(encode: () => T): T {
  try {
    return encode();
  } catch (error) {
    const { code, message = "", hint = "" } = error as { code?: string; message?: string; hint?: string };
    if (code !== "NOT_CLONEABLE") throw error;
    throw new Refusal(code, message.replace(` ${hint}`, ""), hint, true);
  }
}

function streamed(request: WorkerRequest, call: Task, value: unknown): Answer {
  const { path } = request;
  const iterator = iteratorOf(value);
  if (!iterator) {
    throw new Refusal("UNKNOWN_FUNCTION", `${path} does not return a stream.`, `Call pool.run("${path}", …).`, true);
  }
  return { body: items(path, request.payloadBytes, call, iterator) };
}

/** Yields the encoded items. The stream ends with the failure of the iterator, if it fails. */
async function* items(
  name: string,
  limit: number,
  call: Task,
  iterator: AsyncIterator<unknown> | Iterator<unknown>,
): AsyncGenerator<Uint8Array, void> {
  let isOpen = true;
  try {
    for (;;) {
      const step = await running.run(call, () => iterator.next());
      if (step.done) {
        isOpen = false;
        return;
      }
      yield sent(() => encodeItem(step.value, name, limit));
    }
  } catch (error) {
    yield encodeItem(failureOf(error), name, limit, true);
  } finally {
    if (isOpen) await running.run(call, async () => void (await iterator.return?.()));
  }
}
