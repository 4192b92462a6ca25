/** What workers do with requests: the handler of plain requests. */

import type { Answerable } from "../../src/bus/answer.ts";
import type { StreamedBody } from "../../src/bus/body-reader.ts";
import type { WorkerRequest } from "../../src/bus/request.ts";
import { bytesFor, type Call, firstDifference, Planned, Run, Source } from "./books.ts";
import type { Die } from "./choices.ts";
import type { ClaimEnd, World } from "./world.ts";

/** Headers of each response: which call and which run it answers. */
export function headersOf(call: Call, run: Run): [string, string][] {
  return [
    ["x-call", String(call.index)],
    ["x-run", String(run.index)],
  ];
}

/** Begins a run of the handler of a call. */
export function beginRun(world: World, call: Call, end: ClaimEnd): Run {
  const run = new Run(call.runs.length, end.host, end.link);
  call.runs.push(run);
  world.began(call, run);
  return run;
}

/** Handles a plain request. */
export function handle(world: World, request: WorkerRequest): Answerable | void | Promise<Answerable | void> {
  const { call, end } = world.claimOf(request);
  if (!world.isTainted(end.link)) {
    world.expect(request.headers.get("x-call") === String(call.index), `call ${call.index}: another request arrived`);
    world.expect(request.id === (call.ownId ?? request.id), `call ${call.index}: the id changed to ${request.id}`);
    checkBody(world, call, request);
  }
  const run = beginRun(world, call, end);
  const die = world.choices.die(`call ${call.index} run ${run.index}`);
  if (die.chance("watches its signal", 500)) {
    request.signal.addEventListener("abort", () => {
      run.isAborted = true;
    });
  }
  if (request.streams && die.chance("reads while it responds", world.odds("both ways", 700, 40))) {
    readUpload(world, call, run, request.incoming, die).catch(() => {}); // the request may end first
    return streamBack(world, call, run, die);
  }
  const isSlow = die.chance("is slow", 600) || request.streams;
  return isSlow ? handleSlowly(world, call, run, request, die) : decide(world, call, run, request, die);
}

function checkBody(world: World, call: Call, request: WorkerRequest): void {
  const [source] = call.sources;
  if (call.isFetch && source && !request.streams) {
    const { length } = request.body;
    const isWhole = source.ended === "done" && length === source.total;
    world.expect(
      isWhole && firstDifference(call.requestKey, 0, request.body) < 0,
      `call ${call.index}: the handler got ${length} of ${source.total} bytes that fetch collected`,
    );
    return;
  }
  if (request.streams || call.bodyBytes < 0) {
    world.expect(request.streams === call.bodyBytes < 0, `call ${call.index}: streams is ${request.streams}`);
    return;
  }
  const { body } = request;
  const isRight = body.length === call.bodyBytes && firstDifference(call.requestKey, 0, body) < 0;
  world.expect(isRight, `call ${call.index}: the handler got a body of ${body.length} bytes that is not its own`);
}

async function handleSlowly(
  world: World,
  call: Call,
  run: Run,
  request: WorkerRequest,
  die: Die,
): Promise<Answerable | void> {
  if (request.streams && !die.chance("reads nothing", 120)) {
    try {
      await readUpload(world, call, run, request.incoming, die);
    } catch (error) {
      if (die.chance("passes errors on", 500)) {
        run.outcome = "threw";
        throw error;
      }
    }
  }
  await run.host.pause(die.small("handler time", world.odds("deaths|early close|full|hostile", 240, 80)));
  if (die.chance("waits for the caller's end", 60)) {
    const { promise, resolve } = Promise.withResolvers<void>();
    request.signal.addEventListener("abort", () => resolve());
    if (!request.signal.aborted) await promise;
  }
  return decide(world, call, run, request, die);
}

async function readUpload(world: World, call: Call, run: Run, body: StreamedBody, die: Die): Promise<void> {
  const leavesAt = die.chance("leaves the body", 120) ? die.below("leaves at", 400) : Infinity;
  const into = die.chance("reads into", 300) ? new Uint8Array(50) : undefined;
  for await (const chunk of body.chunks(into ? { into } : {})) {
    if (!world.isTainted(run.link)) {
      const at = firstDifference(call.requestKey, run.read, chunk);
      world.expect(at < 0, `call ${call.index}: byte ${at} of the request is wrong`);
    }
    run.read += chunk.length;
    if (run.read >= leavesAt) return;
    const ms = die.rarely("reads slowly", 200, 20);
    if (ms > 0) await run.host.pause(ms);
  }
  if (world.isTainted(run.link)) return;
  const source = call.sources[0]!;
  const isWhole = source.ended === "done" && run.read === source.total;
  world.expect(isWhole, `call ${call.index}: the handler read ${run.read} of ${source.total} bytes and then an end`);
}

/** Returns a response whose body streams. */
function streamBack(world: World, call: Call, run: Run, die: Die): Answerable {
  const source = new Source(call.responseKey(run.index), run.host, die, world.odds("both ways", 150, 0));
  run.outcome = "answered";
  run.source = source;
  world.opened(source);
  return { headers: headersOf(call, run), body: source.body };
}

/** Chooses a response. */
function decide(world: World, call: Call, run: Run, request: WorkerRequest, die: Die): Answerable | void {
  const headers = headersOf(call, run);
  const answerWith = (bytes: number): { headers: typeof headers; body: Uint8Array } => {
    run.outcome = "answered";
    run.bodyBytes = bytes;
    return { headers, body: bytesFor(call.responseKey(run.index), 0, bytes) };
  };
  switch (die.below("answer", 9)) {
    case 1:
      run.outcome = "threw";
      throw new Planned(`call ${call.index} run ${run.index}`);
    case 2:
    case 3:
    case 4:
      return streamBack(world, call, run, die);
    case 5: {
      const later = request.defer();
      const body = bytesFor(call.responseKey(run.index), 0, 30);
      run.host.later(die.small("deferred for", 60), () => {
        run.outcome = "answered";
        run.bodyBytes = 30;
        later({ headers, body });
      });
      world.keep(later);
      return;
    }
    case 6: {
      const delivery = request.respond(answerWith(die.small("body", 1_024)));
      world.expect(request.answered || delivery === "closed", `call ${call.index}: respond() said ${delivery}`);
      if (die.chance("responds twice", 300)) request.respond("again");
      if (die.chance("throws after its response", 200)) throw new Planned("too late");
      return;
    }
    case 7:
      run.outcome = "nothing";
      return;
    case 8: {
      const memory = request.reserve(20);
      if (memory.length === 0) return answerWith(20);
      memory.set(bytesFor(call.responseKey(run.index), 0, 20));
      run.outcome = "answered";
      run.bodyBytes = 20;
      return { headers, body: memory };
    }
    default:
      return answerWith(die.small("body", 1_024));
  }
}
