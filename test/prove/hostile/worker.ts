/** `hostile/worker.ts NAME BOOKS`: an honest worker. It records what it runs, and reports a damaged request. */

import { SlotWorker } from "../../../src/index.ts";
import { handleFlow, isFlow } from "../flows.ts";
import { answerTo, AttackBooks, idOf } from "./attack-books.ts";

/** Serves like every honest worker here. */
export async function serveHonestly(
  name: string,
  directory: string | undefined,
  books: AttackBooks,
  broken: (what: string) => void,
  onAnswer = (): void => {},
): Promise<SlotWorker> {
  const worker = await SlotWorker.open({ name, timeout: 30_000, ...(directory && { directory }) });
  // The books of the streams' handler: only the pages that are written cost anything.
  const flows = { runs: books.runs };
  worker.serve((request) => {
    if (isFlow(request.path)) return handleFlow(flows, request);
    const id = idOf(request.body);
    if (id < 0) broken(`pid ${process.pid} got a damaged request ${request.id}`);
    else Atomics.add(books.runs, id, 1);
    onAnswer();
    return answerTo(request.body);
  });
  return worker;
}

if (import.meta.main) {
  const [name, directory] = process.argv.slice(2);
  process.on("disconnect", () => process.exit(0));
  const say = (what: string): void => void process.send!({ is: "broken", what });
  await serveHonestly(name!, undefined, new AttackBooks(directory!), say);
  process.send!({ is: "loaded" });
}
