/** What clients call: plain requests, borrows and streams. Each checks what it gets against the books. */

import type { BusRequest, RequestOptions } from "../../src/bus/call.ts";
import { BorrowedResponse, BusResponse, StreamedResponse } from "../../src/bus/response.ts";
import { sleep } from "../../src/clock.ts";
import { bytesFor, type Call, firstDifference, Planned, type Run, Source } from "./books.ts";
import type { BusProcess as Bus } from "./processes.ts";
import { PAYLOAD_BYTES } from "./sizes.ts";
import type { World } from "./world.ts";

/** Returns the options of a call, and plans its abort. */
export function optionsOf(world: World, call: Call, bus: Bus): RequestOptions {
  const { die } = call;
  const options: RequestOptions = {};
  call.timeoutMs = bus.options.timeout;
  if (die.chance("has a timeout", 500))
    options.timeout = call.timeoutMs = [400, 60, 21, 1, 0][die.small("timeout", 5)]!;
  if (die.chance("idempotent", 350)) options.idempotent = call.isIdempotent = true;
  if (die.chance("does not wait", 40)) options.waitForWorker = false;
  if (die.chance("pinned", 50)) options.worker = bus.dispatcher.choice.all[0]?.id ?? 999;
  if (die.chance("aborts", 180)) {
    const controller = new AbortController();
    options.signal = controller.signal;
    const ms = die.small("abort after", 90);
    const abort = (): void => {
      if (!call.isSettled || !call.isRead) call.isAborted = true;
      world.noteExchange(call, "abort");
      call.abortReason ??= new Planned(`abort of call ${call.index}`);
      controller.abort(call.abortReason);
    };
    if (die.chance("aborts before", 60)) abort();
    else if (die.chance("aborts at a report", 300)) world.atReport(call, 1 + die.below("report", 4), abort, bus.host);
    else bus.host.later(ms, abort);
  }
  return options;
}

/** Returns the request of a plain call. */
function requestOf(world: World, call: Call, bus: Bus): BusRequest {
  const { die } = call;
  const request: BusRequest = { path: `/call/${call.index}`, headers: [["x-call", String(call.index)]] };
  if (die.chance("own id", 300)) request.id = call.ownId = `c${call.index}`;
  if (die.chance("asks in its headers", 15)) {
    const { index } = call;
    request.headers = {
      get "x-call"(): string {
        world.makeCall(bus, die);
        return String(index);
      },
    };
  }
  switch (die.below("body", 6)) {
    case 1:
    case 2: {
      call.bodyBytes = die.small("body bytes", die.chance("too large", 20) ? 1_500 : PAYLOAD_BYTES);
      request.body = bytesFor(call.requestKey, 0, call.bodyBytes);
      break;
    }
    case 3:
    case 4: {
      const source = new Source(call.requestKey, bus.host, die);
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
  const kind = (["copy", "stream", "borrow", "stream"] as const)[die.below("kind", 4)]!;
  const options = optionsOf(world, call, bus);
  const request = requestOf(world, call, bus);
  if (kind === "stream") {
    if (die.chance("deadline", 80)) options.deadline = 10 + die.below("deadline", 80);
    if (die.chance("idle", 80)) options.idle = 10 + die.below("idle", 40);
  }
  const response = await bus.dispatcher.ask(request, options, kind);
  call.settledAt = world.time.now;
  const run = world.runOf(call, response.headers.get("x-call"), response.headers.get("x-run"));
  if (response instanceof StreamedResponse) await readResponse(world, call, run, response, bus);
  else await checkWhole(world, call, run, response, bus);
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
  await sleep(bus.host, call.die.small("borrows for", 60));
  check();
  response.release();
  const isView = run !== null && run.source === null;
  world.expect(!isView || response.body.length === 0, `call ${call.index}: the body of a released borrow can be read`);
}

async function readResponse(
  world: World,
  call: Call,
  run: Run | null,
  response: StreamedResponse,
  bus: Bus,
): Promise<void> {
  const { die } = call;
  world.keep(response);
  const source = run?.source ?? null;
  const leavesAt = die.chance("leaves the response", 150) ? die.below("leaves at", 600) : Infinity;
  const into = die.chance("reads into", 300) ? new Uint8Array(70) : undefined;
  await sleep(bus.host, die.rarely("reads late", 100, 60));
  let read = 0;
  try {
    for await (const chunk of response.chunks(into ? { into } : {})) {
      const at = run && !world.isTaintedCall(call) ? firstDifference(call.responseKey(run.index), read, chunk) : -1;
      world.expect(at < 0, `call ${call.index}: byte ${at} of the response is wrong`);
      read += chunk.length;
      call.value = read;
      if (read >= leavesAt) {
        call.isCancelled = true;
        break;
      }
      const ms = die.rarely("reads slowly", 150, 25);
      if (ms > 0) await sleep(bus.host, ms);
    }
    if (run && !call.isCancelled && !world.isTaintedCall(call)) {
      const isWhole = source ? source.ended === "done" && read === source.total : read === run.bodyBytes;
      world.expect(
        isWhole,
        `call ${call.index}: a response ended well after ${read} of ${source?.total ?? run.bodyBytes} bytes`,
      );
    }
  } catch (error) {
    if (run) world.streamFailed(call, run, read, error);
    throw error;
  } finally {
    call.isRead = true;
  }
}
