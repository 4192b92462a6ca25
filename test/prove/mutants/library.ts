/** The rules that the TypeScript library keeps, and what is left without each. */

import type { Rule } from "./rule.ts";

export interface LibraryRule extends Rule {
  /** Where `test` stands. */
  suite: string;
}

export const libraryRules: LibraryRule[] = [
  {
    rule: "an answer that a dead worker gave is delivered first",
    file: "bus/bus.ts",
    edits: [
      ["if (result === C.SB_DONE) return this.#deliverLast(link, slot);", ""],
      [
        "if (result === C.SB_FREE) {\n      unclaimed",
        "if (result === C.SB_DONE) {\n      this.#reject(pending, new WorkerDiedError(this.#idOf(pending), link.peer.pid, how, true));\n    } else if (result === C.SB_FREE) {\n      unclaimed",
      ],
    ],
    suite: "link",
    test: "an answer whose hint never came is delivered when its worker is evicted",
  },
  {
    rule: "what a dead worker had not claimed goes to another one",
    file: "bus/bus.ts",
    edits: [
      [
        "      unclaimed.push(pending);",
        "      this.#reject(pending, new WorkerDiedError(this.#idOf(pending), link.peer.pid, how, true));",
      ],
    ],
    suite: "crash",
    test: "what a killed worker had not claimed goes to another one, what it had claimed does not",
  },
  {
    rule: "what a dead worker had claimed is sent again only when it may run twice",
    file: "bus/bus.ts",
    edits: [["      pending.options.idempotent &&\n", ""]],
    suite: "crash",
    test: "a worker that exits in its handler is a worker that died, and the exit code changes nothing",
  },
  {
    rule: "a request is sent again once",
    file: "bus/bus.ts",
    edits: [["      !pending.retried &&\n", ""]],
    suite: "crash",
    test: "an idempotent request is tried twice and no more, and within its first timeout",
  },
  {
    rule: "a second run waits for the proof that the first has ended",
    file: "bus/bus.ts",
    edits: [["!pending.settled && !over && !this.#closed && !link.hasEnded()", "false"]],
    suite: "link",
    test: "an idempotent request of an evicted worker that lives runs again only when that process has ended",
  },
  {
    rule: "the word is looked at again after a response was copied",
    file: "bus/bus.ts",
    edits: [
      [
        "const intact = native.sb_slot_release(this.#hub, link.index, slot) === 0;",
        "native.sb_slot_release(this.#hub, link.index, slot);\n    const intact = true;",
      ],
    ],
    suite: "link",
    test: "a slot that changes while its response is copied: the request fails",
  },
  {
    rule: "a response's body is copied out of the slot",
    file: "bus/bus.ts",
    edits: [
      [
        "lending ? null : arena.bytes.slice(offset, offset + bodyBytes)",
        "lending ? null : arena.bytes.subarray(offset, offset + bodyBytes)",
      ],
    ],
    suite: "response",
    test: "a response that is kept stays what it was, whatever its slot carries later",
  },
  {
    rule: "a head is copied before it is read",
    file: "bus/codec.ts",
    edits: [
      [
        "const head = new Head(arena.bytes.slice(0, length), this.#leading);",
        "const head = new Head(arena.bytes.subarray(0, length), this.#leading);",
      ],
    ],
    suite: "codec",
    test: "a reader that remembers gives equal heads for equal bytes and different ones for different",
  },
  {
    rule: "a region stays while a response in it is lent",
    file: "bus/bus.ts",
    edits: [["if (link.borrowed === 0) this.#forget(link);\n    else this.#lending.add(link);", "this.#forget(link);"]],
    suite: "response",
    test: "a loan outlives the kill of its worker: the bytes stay, and with the last one the region goes",
  },
  {
    rule: "all events of a batch are handled before a worker that broke the protocol in one is ended",
    file: "bus/bus.ts",
    edits: [["if (this.#handling) this.#condemned.push(link);\n    else ", ""]],
    suite: "settle",
    test: "a request whose answer begins in the batch that evicts its worker",
  },
  {
    rule: "what nobody has settled at the end of a worker is rejected",
    file: "bus/bus.ts",
    edits: [["if (unsettled.length > 0) setImmediate(() => this.#audit(link, unsettled));", ""]],
    suite: "settle",
    test: "a request that nothing settles at the end of its worker is rejected then",
  },
  {
    rule: "a source never runs while events are handled",
    file: "bus/stream.ts",
    edits: [["    await Promise.resolve();\n    if (this.#stopped) return endSource(source);\n", ""]],
    suite: "settle",
    test: "a source, sync, that blocks in its first step",
  },
  {
    rule: "a source is never ended while events are handled",
    file: "bus/stream.ts",
    edits: [
      ["if (iterator) queueMicrotask(() => void endIterator(iterator));", "if (iterator) void endIterator(iterator);"],
    ],
    suite: "settle",
    test: "a source that blocks when it is ended",
  },
  {
    rule: "a slot that is lent is not free",
    file: "bus/bus.ts",
    edits: [["if (!lending && !this.#free(link, slot)) {", "if (!this.#free(link, slot)) {"]],
    suite: "response",
    test: "lent responses keep their own slots and bytes while the other slots go on",
  },
  {
    rule: "a request that timed out unclaimed was never executed, and says so",
    file: "bus/bus.ts",
    edits: [
      ["        if (pending) this.#timeOut(pending, false);", "        if (pending) this.#timeOut(pending, true);"],
    ],
    suite: "bus",
    test: "a request that times out in a slot of a worker that does not take it was never executed, and says so",
  },
  {
    rule: "a request that timed out in its handler may have been executed, and says so",
    file: "bus/bus.ts",
    edits: [
      [
        "if (pending) this.#timeOut(pending, true);\n        break;",
        "if (pending) this.#timeOut(pending, false);\n        break;",
      ],
    ],
    suite: "bus",
    test: "a handler that never answers",
  },
  {
    rule: "a caller that gives up tells the worker",
    file: "bus/bus.ts",
    edits: [
      [
        "      link.writer.send(C.SB_MSG_CANCEL, cancelBody(slot, native.sb_slot_token(this.#hub, link.index, slot)));",
        "",
      ],
    ],
    suite: "bus",
    test: "a handler hears that its caller gave up before it hears that the hub has closed",
  },
  {
    rule: "a stopped worker is chosen last",
    file: "bus/bus.ts",
    edits: [["        link.suspect = true;\n", ""]],
    suite: "crash",
    test: "a stopped worker holds up its own requests only, and goes on when it is continued",
  },
  {
    rule: "what breaks the protocol is evicted",
    file: "bus/bus.ts",
    edits: [["this.#evict(link, `it sent a message of type ${type}`);", ""]],
    suite: "link",
    test: "a worker that sends an unknown message",
  },
  {
    rule: "whoever rings without work is evicted",
    file: "bus/bus.ts",
    edits: [
      ["if (native.sb_link_bell(this.#hub, link.index, bells + messages) !== 0) {", "if (bells + messages < 0) {"],
    ],
    suite: "link",
    test: "a worker that sends 20 000 bells",
  },
  {
    rule: "a claim is answered once",
    file: "bus/session.ts",
    edits: [["if (claim.answered || !this.open) {", "if (!this.open) {"]],
    suite: "worker",
    test: "a second answer never reaches the request that has the slot by then",
  },
  {
    rule: "borrowed bodies end with the answer",
    file: "bus/session.ts",
    edits: [["if (claim.borrows !== null || claim.reserved !== null) claim.detachViews(this.#onHeld);", ""]],
    suite: "body",
    test: "of 40000 bytes ends with the answer, and then",
  },
  {
    rule: "a body is copied before its slot is given back",
    file: "bus/session.ts",
    edits: [["if (claim.isBodyLent || !claim.own) this.#keepBody(claim);", ""]],
    suite: "body",
    test: "that has answered reads its own body by body, of every size, though others have its slot",
  },
  {
    rule: "a body is copied before the connection ends",
    file: "bus/session.ts",
    edits: [["for (const claim of this.running) if (claim) this.#keepBody(claim);", ""]],
    suite: "body",
    test: "still has its body when the connection has ended, and hears of that end with it",
  },
  {
    rule: "a handler that returns nothing has failed",
    file: "bus/worker.ts",
    edits: [["if (request.answered || request.isDeferred) return;", "if (request) return;"]],
    suite: "worker",
    test: "at once: its caller, `handlerError` and a late answer are told at once",
  },
  {
    rule: "a queue has an end",
    file: "bus/bus.ts",
    edits: [
      ['policy === "reject" && this.#queue.length >= limit', 'policy === "reject" && this.#queue.length > 1e9 + limit'],
    ],
    suite: "bus",
    test: "a full queue rejects with BusOverloadedError and the numbers",
  },
  {
    rule: "what was committed of a stream is delivered before its end",
    file: "bus/stream.ts",
    edits: [["for (let chunk = this.#take(); chunk; chunk = this.#take()) this.#rest.push(chunk);", "this.#take();"]],
    suite: "stream",
    test: "an answer that began and ended without a hint is delivered when its worker is evicted",
  },
  {
    rule: "a response that streamed and was not seen is read when its worker ends",
    file: "bus/bus.ts",
    edits: [["if ((this.#events[at]! & 0xffff) === C.SB_EV_DONE) {", "if (link) {"]],
    suite: "stream",
    test: "an answer that began and ended without a hint is delivered when its worker is evicted",
  },
  {
    rule: "a source is asked only after the claim",
    file: "bus/bus.ts",
    edits: [
      [
        "        link.streams[slot] = this.#openStream(link, slot, body);",
        "        const stream = (link.streams[slot] = this.#openStream(link, slot, body));\n" +
          "        this.#sendBody(link, slot, stream, body);",
      ],
    ],
    suite: "stream",
    test: "it is not asked for anything before a worker has claimed it",
  },
  {
    rule: "a stalled reader stops the writer",
    file: "bus/stream.ts",
    edits: [
      [
        "    if (!waiter) return;\n    const chunk",
        "    if (!waiter) {\n      const ahead = this.#take();\n      if (ahead) this.#rest.push(ahead);\n      return;\n    }\n    const chunk",
      ],
    ],
    suite: "stream",
    test: "a reader that stalls stops its writer within the ring's size, and nobody else",
  },
  {
    rule: "DONE alone does not end a stream",
    file: "bus/stream.ts",
    edits: [["this.#finish(this.#ended ? null : failure());", "this.#finish(this.#ended ? null : (failure(), null));"]],
    suite: "stream",
    test: "counts that cannot be, and an end that says nothing, are errors of the stream and never its end",
  },
  {
    rule: "a request is counted once, whatever fails of it",
    file: "bus/bus.ts",
    edits: [['pending?.kind === "stream" && stream.receiver', 'pending?.kind === "stream"']],
    suite: "stream",
    test: "a source that fails before the answer begins is one request less that a drain waits for",
  },
  {
    rule: "a body that was partly sent is not sent again",
    file: "bus/bus.ts",
    edits: [["      !wasSending &&\n", ""]],
    suite: "stream",
    test: "an idempotent request whose body was asked for is not sent again",
  },
  {
    rule: "what a dead hub had sent is read before the error",
    file: "bus/session.ts",
    edits: [["for (const claim of this.running) claim?.receiver?.end(() => ({ error: reason }));", ""]],
    suite: "stream",
    test: "a hub that is killed: what it had sent arrives, then BusClosedError, and the request's signal aborts",
  },
  {
    rule: "a writer that waits for room goes on waiting while the other direction moves",
    file: "bus/stream.ts",
    edits: [["channel.move(0, taken, C.SB_FLOW_OPEN, channel.need)", "channel.move(0, taken, C.SB_FLOW_OPEN, 0)"]],
    suite: "stream",
    test: "a source that waits for room is told of it also when the other direction moved meanwhile",
  },
  {
    rule: "impossible counts are heard as an error, also by whoever waits",
    file: "bus/stream.ts",
    edits: [
      ["if (this.#waiter !== waiter || (!chunk && !this.#ended)) return;", "if (!chunk && !this.#ended) return;"],
    ],
    suite: "stream",
    test: "a handler that waits when its hub's counts become impossible hears of it, and never of an end",
  },
  {
    rule: "a stream that is read leaves the event loop its turns",
    file: "bus/stream.ts",
    edits: [["if (isTurnOver()) return nextTurn(systemClock).then(() => this.#next(reader));", ""]],
    suite: "stream",
    test: "a slow reader leaves timers and the requests of others their turns",
  },
  {
    rule: "a response that is dropped unread is cancelled",
    file: "bus/hub-stream.ts",
    edits: [["if (reader) this.receiver?.readBy(reader);", ""]],
    suite: "stream",
    test: "a response that is dropped unread is cancelled when it is collected as garbage",
  },
  {
    rule: "a drain hears of a streamed answer that came too late",
    file: "bus/session.ts",
    edits: [["      this.onAnswer(0);\n      endSource", "      endSource"]],
    suite: "stream",
    test: "an answer that streams too late ends its source, and a drain of its worker waits no longer",
  },
  {
    rule: "a body that had failed is not whole",
    file: "bus/fetch.ts",
    edits: [['Bun.peek.status(reading) === "fulfilled"', 'Bun.peek.status(reading) !== "pending"']],
    suite: "fetch",
    test: "a body whose stream fails, or had failed, rejects with that failure, and nothing is sent",
  },
];
