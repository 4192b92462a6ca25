/** Attaches a worker to one client by frames. */

import { join as joinPath } from "node:path";
import type { Clock } from "../../clock.ts";
import { BusNotFoundError, SlotbusError } from "../../errors.ts";
import { C } from "../../native/abi.ts";
import { type Duplex, sockets } from "./duplex.ts";
import { connectError, invalidHandshake, refusedError } from "./errors.ts";
import {
  decodeRefused,
  decodeWelcome,
  encodeAttached,
  encodeJoin,
  HandshakeReader,
  type Welcome,
  WELCOME,
} from "./handshake.ts";

/** Longest handshake, in ms. */
const HANDSHAKE_MS = 2_000;

/** Called when the client has welcomed the worker; takes over the duplex. `rest`: frames that came with the welcome. */
export type Attached = (duplex: Duplex, welcome: Welcome, rest: Uint8Array) => void;

/** Connects to one client, then calls `opened` before any byte can arrive. */
export type Connect = (opened: (duplex: Duplex) => void) => Promise<void>;

/** Returns the way to the socket of the client at `address` (`NAME` or `NAME@K`). */
export function connectSocket(directory: string, address: string): Connect {
  return (opened) => sockets.connect(joinPath(directory, `${address}.sock`), opened);
}

/** Attaches to the client of a bus to which `connect` leads. `place`: where it is, for errors. Resolves to `null`, or to why it failed. */
export async function joinClient(
  connect: Connect,
  name: string,
  place: string,
  concurrency: number,
  clock: Clock,
  attached: Attached,
): Promise<SlotbusError | null> {
  const { promise, resolve } = Promise.withResolvers<SlotbusError | null>();
  let duplex: Duplex | null = null;
  const fail = (error: SlotbusError): void => {
    resolve(error);
    if (!duplex) return;
    duplex.onData = duplex.onClose = () => {};
    duplex.terminate();
  };
  const timer = clock.after(HANDSHAKE_MS, () => {
    const message = `The client of bus "${name}" did not finish the handshake within ${HANDSHAKE_MS} ms.`;
    fail(new SlotbusError("RESOURCE", message));
  });
  const opened = (one: Duplex): void => {
    duplex = one;
    const reader = new HandshakeReader();
    one.onClose = () => fail(new BusNotFoundError(name, place, 0));
    one.onData = (bytes) => {
      let welcome: Welcome | null = null;
      const rest = reader.read(bytes, (type, body) => {
        const refused = type === C.SB_MSG_REFUSED ? decodeRefused(body) : null;
        welcome = type === WELCOME ? decodeWelcome(body) : null;
        if (!welcome)
          fail(refused ? refusedError(name, place, refused.code, refused.versions) : invalidHandshake(name));
        return false;
      });
      if (!welcome) return;
      one.write(encodeAttached());
      attached(one, welcome, rest);
      resolve(null);
    };
    one.write(encodeJoin(concurrency));
  };
  connect(opened).catch((cause) => fail(connectError(name, place, cause)));
  const result = await promise;
  timer.close();
  return result;
}
