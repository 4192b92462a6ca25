/** What clients call: plain requests, borrows and streams. Each checks what it gets against the books. */

import type { BusRequest, RequestOptions } from "../../src/bus/call.ts";
import { fetchThrough } from "../../src/bus/fetch.ts";
import { BorrowedResponse, BusResponse, StreamedResponse } from "../../src/bus/response.ts";
import { bytesFor, type Call, firstDifference, Planned, type Run, Source } from "./books.ts";
import { checkStreamTimeout, expectAborted } from "./limits.ts";
import type { BusProcess as Bus } from "./processes.ts";
import { PAYLOAD_BYTES } from "./sizes.ts";
import type { World } from "./world.ts";

/** Returns the options of a call, and plans its abort. */
export function optionsOf(world: World, call: Call, bus: Bus): RequestOptions {
  const { die } = call;
  const options: RequestOptions = {};
  call.timeoutMs = bus.options.timeout;
  if (die.chance("has a timeout", world.odds("early close", 150, 500)))
    options.timeout = call.timeoutMs = [400, 60, 21, 1, 0][die.small("timeout", 5)]!;
  if (die.chance("idempotent", world.odds("deaths|early close|full", 750, 350)))
    options.idempotent = call.isIdempotent = true;
  if (die.chance("does not wait", 40)) options.waitForWorker = false;
  if (die.chance("pinned", world.odds("bound", 600, 50))) {
    const { all } = bus.dispatcher.choice;
    options.worker = call.boundTo = all[die.below("pinned to", 8) % all.length]?.id ?? 999;
  }
  call.isChoosy = options.waitForWorker === false || options.worker !== undefined;
  if (die.chance("aborts", world.odds("deaths|full|early close", 400, world.odds("hostile", 650, 180)))) {
    const controller = new AbortController();
    options.signal = controller.signal;
    const ms = die.small("abort after", world.odds("deaths|early close", 500, 90));
    const abort = (): void => {
      if (!call.isSettled || !call.isRead) call.isAborted = true;
      world.noteExchange(call, "abort");
      call.abortReason ??= new Planned(`abort of call ${call.index}`);
      controller.abort(call.abortReason);
      expectAborted(world, call);
    };
    if (die.chance("aborts before", 60)) abort();
    else if (die.chance("aborts as its response arrives", world.odds("full", 400, 60)))
      world.atOnce("arrival", call, abort, bus.host);
    else if (die.chance("aborts after its worker died", world.odds("deaths|early close", 500, 30)))
      world.atOnce("loss", call, () => bus.host.later(die.below("dead for", 100), abort), bus.host);
    else if (die.chance("aborts at a report", 300)) world.atReport(call, 1 + die.below("report", 4), abort, bus.host);
    else bus.host.later(ms, abort);
  }
  return options;
}

/** Returns the request of a plain call. `isPlain`: its headers run no user code. */
function requestOf(world: World, call: Call, bus: Bus, isPlain: boolean): BusRequest {
  const { die } = call;
  const request: BusRequest = { path: `/call/${call.index}`, headers: [["x-call", String(call.index)]] };
  if (die.chance("own id", 300)) request.id = call.ownId = `c${call.index}`;
  if (!isPlain && die.chance("asks in its headers", 15)) {
    const { index } = call;
    request.headers = {
      get "x-call"(): string {
        world.makeCall(bus, die);
        return String(index);
      },
    };
  }
  const streams =
    world.theme !== "none" && die.chance("body streams", world.odds("both ways|hostile|early close", 700, 300));
  switch (streams ? 3 : die.below("body", 6)) {
    case 1:
    case 2: {
      call.bodyBytes = die.small("body bytes", die.chance("too large", 20) ? 1_500 : PAYLOAD_BYTES);
      request.body = bytesFor(call.requestKey, 0, call.bodyBytes);
      break;
    }
    case 3:
    case 4: {
      const source = new Source(call.requestKey, bus.host, die, world.odds("both ways", 14, 0));
      call.sources.push(source);
      world.opened(source);
      call.bodyBytes = -1;
      request.body = source.body;
      break;
    }
  }
  return request;
}

/** Makes a plain call. Rejects as the call does. */
export async function callPlain(world: World, call: Call, bus: Bus): Promise<void> {
  const { die } = call;
  const drawn = (["copy", "stream", "borrow", "stream"] as const)[die.below("kind", 4)]!;
  const kind = world.theme === "both ways" ? "stream" : drawn;
  const options = optionsOf(world, call, bus);
  const wantsFetch = die.chance("through fetch", 250);
  const request = requestOf(world, call, bus, wantsFetch);
  if (kind === "stream") {
    if (die.chance("deadline", 80)) options.deadline = 10 + die.below("deadline", 80);
    if (die.chance("idle", world.odds("both ways", 600, 80))) options.idle = call.idleMs = 10 + die.below("idle", 40);
  }
  if (wantsFetch && canFetch(call)) return callFetch(world, call, request, options, bus);
  const response = await bus.ask(request, options, kind);
  call.settledAt = world.time.now;
  const run = world.runOf(call, response.headers.get("x-call"), response.headers.get("x-run"));
  world.keep(response);
  if (response instanceof StreamedResponse) await readResponse(world, call, run, response, bus);
  else await checkWhole(world, call, run, response, bus);
}

/** Whether a `RequestInit` can have the body of a call. */
function canFetch(call: Call): boolean {
  const [source] = call.sources;
  return call.bodyBytes <= PAYLOAD_BYTES && (!source || source.kind === "stream");
}

/** Makes a plain call through `fetch`, which may collect a source before it sends the request. */
async function callFetch(
  world: World,
  call: Call,
  { path, headers, body }: BusRequest,
  options: RequestOptions,
  bus: Bus,
): Promise<void> {
  call.ownId = null;
  call.isFetch = true;
  const init = { ...options, method: body === undefined ? "GET" : "POST", headers: headers as [string, string][] };
  const response = await fetchThrough(bus.asker, bus.host, path, { ...init, body: body as Uint8Array<ArrayBuffer> });
  call.settledAt = world.time.now;
  const run = world.runOf(call, response.headers.get("x-call"), response.headers.get("x-run"));
  world.keep(response);
  await readResponse(world, call, run, response, bus);
}

async function checkWhole(world: World, call: Call, run: Run | null, response: BusResponse, bus: Bus): Promise<void> {
  const check = (): void => {
    if (!run || world.isTaintedCall(call)) return;
    const { body } = response;
    const { source } = run;
    world.expect(body.length <= PAYLOAD_BYTES, `call ${call.index}: a body of ${body.length} bytes is above the limit`);
    const bytes = source ? source.total : run.bodyBytes;
    const isRight = body.length === bytes && firstDifference(call.responseKey(run.index), 0, body) < 0;
    world.expect(isRight, `call ${call.index}: a body of ${body.length} bytes is not the ${bytes} of its response`);
    world.expect(
      !source || source.ended === "done",
      `call ${call.index}: a response was whole before its source ended`,
    );
  };
  check();
  call.value = response.body.length;
  if (!(response instanceof BorrowedResponse)) return;
  await bus.host.pause(call.die.small("borrows for", 60));
  check();
  response.release();
  const isView = run !== null && run.source === null;
  world.expect(!isView || response.body.length === 0, `call ${call.index}: the body of a released borrow can be read`);
}

async function readResponse(
  world: World,
  call: Call,
  run: Run | null,
  response: StreamedResponse | Response,
  bus: Bus,
): Promise<void> {
  const { die } = call;
  const source = run?.source ?? null;
  const leavesAt = die.chance("leaves the response", 150) ? die.below("leaves at", 600) : Infinity;
  const into = die.chance("reads into", 300) ? new Uint8Array(70) : undefined;
  await bus.host.pause(die.rarely("reads late", 100, 60));
  let read = 0;
  let waitsFrom = world.time.now;
  try {
    if (response instanceof StreamedResponse && die.chance("collects", 120))
      return await collect(world, call, run, response);
    const chunks = response instanceof Response ? (response.body ?? []) : response.chunks(into ? { into } : {});
    for await (const chunk of chunks as AsyncIterable<Uint8Array>) {
      const at = run && !world.isTaintedCall(call) ? firstDifference(call.responseKey(run.index), read, chunk) : -1;
      world.expect(at < 0, `call ${call.index}: byte ${at} of the response is wrong`);
      read += chunk.length;
      call.value = read;
      if (read >= leavesAt) {
        call.isCancelled = true;
        break;
      }
      const ms = die.rarely("reads slowly", 150, 25);
      if (ms > 0) await bus.host.pause(ms);
      waitsFrom = world.time.now;
    }
    if (run && !call.isCancelled && !world.isTaintedCall(call)) {
      const isWhole = source ? source.ended === "done" && read === source.total : read === run.bodyBytes;
      world.expect(
        isWhole,
        `call ${call.index}: a response ended well after ${read} of ${source?.total ?? run.bodyBytes} bytes`,
      );
    }
  } catch (error) {
    if (run && call.bytesLimit === Infinity) world.streamFailed(call, run, read, error);
    checkStreamTimeout(world, call, waitsFrom, error);
    throw error;
  } finally {
    call.isRead = true;
  }
}

/** Reads the whole body of a response, up to a limit. */
async function collect(world: World, call: Call, run: Run | null, response: StreamedResponse): Promise<void> {
  const limit = call.die.below("limit", 2 * PAYLOAD_BYTES);
  call.bytesLimit = limit;
  const bytes = await response.bytes(limit);
  world.expect(bytes.length <= limit, `call ${call.index} collected ${bytes.length} bytes, above ${limit}`);
  if (!run || world.isTaintedCall(call)) return;
  const isRight = bytes.length === (run.source?.total ?? run.bodyBytes);
  const isOwn = firstDifference(call.responseKey(run.index), 0, bytes) < 0;
  world.expect(isRight && isOwn, `call ${call.index} collected ${bytes.length} bytes that are not its response`);
}
