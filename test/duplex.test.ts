import { expect, test } from "bun:test";
import { join } from "node:path";
import { bunSockets, type Duplex, nodeSockets, SOCKET_PATH_BYTES, type Sockets } from "../src/wires/socket/duplex.ts";
import { Workspace } from "./support.ts";

const pairs: [string, Sockets, Sockets][] = [
  ["Bun's sockets", bunSockets, bunSockets],
  ["node:net", nodeSockets, nodeSockets],
  ["Bun's sockets and node:net", bunSockets, nodeSockets],
];

/** Sends all bytes, waiting for `onDrain` where the socket is full; returns how often it was. */
async function sendAll(duplex: Duplex, bytes: Uint8Array): Promise<number> {
  let waits = 0;
  for (let at = 0; at < bytes.length;) {
    at += duplex.write(bytes.subarray(at));
    if (at === bytes.length) break;
    waits++;
    await new Promise<void>((resolve) => (duplex.onDrain = resolve));
  }
  return waits;
}

for (const [name, listening, connecting] of pairs) {
  test(`${name}: a full socket accepts no more, drains, and loses no byte of 8 MB`, async () => {
    await using space = new Workspace();
    const path = join(space.directory, "x.sock");
    const accepted = Promise.withResolvers<Duplex>();
    const opened = Promise.withResolvers<Duplex>();
    const closed = Promise.withResolvers<void>();
    const hash = new Bun.CryptoHasher("sha256");
    let received = 0;
    const all = Promise.withResolvers<void>();
    const listener = await listening.listen(path, (duplex) => {
      duplex.onData = (bytes) => {
        hash.update(bytes);
        received += bytes.length;
        if (received === 8_000_000) all.resolve();
      };
      duplex.onClose = closed.resolve;
      accepted.resolve(duplex);
    });
    await connecting.connect(path, opened.resolve);
    const duplex = await opened.promise;
    const bytes = crypto.getRandomValues(new Uint8Array(64_000));
    const whole = new Uint8Array(8_000_000);
    for (let at = 0; at < whole.length; at += bytes.length) whole.set(bytes, at);
    expect(await sendAll(duplex, whole)).toBeGreaterThan(0);
    await all.promise;
    expect(hash.digest("hex")).toBe(new Bun.CryptoHasher("sha256").update(whole).digest("hex"));
    duplex.terminate();
    await closed.promise;
    expect((await accepted.promise).write(bytes)).toBe(0);
    listener.stop();
  });

  test(`${name}: nobody listens, or the path is too long: connect rejects`, async () => {
    await using space = new Workspace();
    const path = join(space.directory, "none.sock");
    expect(await connecting.connect(path, () => {}).catch((error) => error.code)).toBe("ENOENT");
    const long = `/tmp/${"x".repeat(SOCKET_PATH_BYTES)}`;
    const error = await (async () => listening.listen(long, () => {}))().catch((reason) => reason);
    expect(error.code).toBe("INVALID_CONFIG");
  });
}
