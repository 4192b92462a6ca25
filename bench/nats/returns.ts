/** A NATS server that is killed and starts again, and the first answer after that, with slotbus. */

import { CommandError } from "../../src/cli/usage.ts";
import { nats } from "../../src/nats/index.ts";
import { SlotBus } from "../../src/slotbus.ts";
import { startServer } from "../servers.ts";
import type { Workspace } from "../systems.ts";
import type { Guard } from "./events.ts";
import { NAME } from "./names.ts";

/** Time for which the server is gone, in ms. */
const GONE_MS = 300;

/** Resolves to the times from the server's first connection to the answer of a request that waits for it, in ms, one for each round. */
export async function measureReturns(
  program: string,
  rounds: number,
  workspace: Workspace,
  guard: Guard,
): Promise<number[]> {
  let server = await startServer("nats", workspace);
  const { address } = server;
  const port = Number(new URL(address).port);
  const bus = await SlotBus.connect({ name: NAME, via: nats({ servers: address }) });
  const peer = await workspace.start("slotbus", address, { program });
  const times: number[] = [];
  try {
    await bus.ready();
    for (let round = 0; round < rounds; round++) {
      await server.stop("SIGKILL");
      // It may be sent before the bus has noticed the loss of the server.
      const waiting = bus.request({ path: "/", body: `${round}` }, { idempotent: true }).then((answer) => {
        if (answer.text() !== `${round}`) throw new CommandError(`slotbus answered ${answer.text()}, not ${round}`);
        return performance.now();
      });
      await Bun.sleep(GONE_MS);
      server = await startServer("nats", workspace, { port });
      const began = performance.now();
      times.push((await guard("slotbus", waiting)) - began);
    }
    return times;
  } finally {
    await bus.close();
    await peer.stop();
    await server.stop();
  }
}
