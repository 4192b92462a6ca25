/**
 * Small functions on the way of each request. JavaScriptCore's last compiler (FTL) builds them into their callers, and would also
 * compile each of them for itself (`BUN_JSC_reportFTLCompileTimes=1` lists what it compiles). On one processor that takes time
 * from the first requests of a process.
 */

import { sourceOf, statusOf } from "../../bus/answer.ts";
import { isStreamSource } from "../../bus/body-writer.ts";
import { checkRequest, signalOf } from "../../bus/call.ts";
import { Choice } from "../../bus/choice.ts";
import { Claim } from "../../bus/claim.ts";
import { Arena, bodyOffset, encodeMethod, HeadWriter, viewOf } from "../../bus/codec.ts";
import { Exchange } from "../../bus/exchange.ts";
import { Ticker } from "../../bus/ticker.ts";
import { Unsettled } from "../../bus/unsettled.ts";
import { ClientHandle, LinkHandle } from "../../native/client.ts";
import { Sessions } from "../../native/sessions.ts";
import { WorkerHandle } from "../../native/worker.ts";
import { Arenas } from "./arenas.ts";
import { MemoryClient } from "./client.ts";
import { Driver } from "./driver.ts";
import { MemoryWorker } from "./worker.ts";

/** Names of the methods of a class. */
type Methods<T> = { [K in keyof T]: T[K] extends (...args: never[]) => unknown ? K : never }[keyof T];

const jsc = process.getBuiltinModule("bun:jsc" as "fs") as unknown as { noFTL(leaf: unknown): void };

function areLeaves<T>({ prototype }: { prototype: T }, ...names: Methods<T>[]): void {
  for (const name of names) jsc.noFTL(prototype[name]);
}

/** Tells JavaScriptCore, once for each process. */
export function nameLeaves(): void {
  const functions = [bodyOffset, checkRequest, encodeMethod, isStreamSource, signalOf, sourceOf, statusOf, viewOf];
  for (const leaf of functions) jsc.noFTL(leaf);
  areLeaves(Arena, "startsWith", "write");
  areLeaves(Arenas, "request", "response");
  areLeaves(Choice, "pick");
  areLeaves(Claim, "settle", "detachViews");
  areLeaves(ClientHandle, "poll", "read", "park", "unpark", "hold", "ring");
  areLeaves(Driver, "release", "wake", "hold", "ring");
  areLeaves(Exchange, "beginBody", "collect", "timeLeft", "writeHead");
  areLeaves(HeadWriter, "take", "put");
  areLeaves(LinkHandle, "reserve", "release");
  areLeaves(MemoryClient, "poll", "mayReceive", "park", "unpark", "hold", "ring", "spread");
  areLeaves(MemoryWorker, "mayReceive", "park", "unpark", "hold", "ring", "spread");
  areLeaves(Ticker, "start");
  areLeaves(Unsettled, "begin", "end");
  areLeaves(Sessions, "park", "unpark", "hold", "ring");
  areLeaves(WorkerHandle, "complete");
}
