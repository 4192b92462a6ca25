/**
 * A stream of bytes in both directions over a unix socket, on either runtime: Bun's own sockets under Bun, `node:net` elsewhere. A
 * runtime loads only its own implementation. Nothing else of the socket wire calls a runtime's socket API.
 */

import type { Socket as BunSocket, SocketHandler } from "bun";
import type { Socket as NodeSocket } from "node:net";
import { InvalidConfigError } from "../../errors.ts";

/** Longest path of a socket, in bytes. Longer paths would be cut off without an error by some versions of Node. */
export const SOCKET_PATH_BYTES = process.platform === "linux" ? 107 : 103;

/** One end of a connected socket. Who gets one sets its callbacks before it returns. */
export interface Duplex {
  /** Descriptor; -1 where the runtime does not show it. */
  readonly fd: number;
  /** Whether the other side may be on another machine. */
  readonly isFar?: boolean;
  /** Called with bytes that arrived. The bytes are valid until the call returns. */
  onData: (bytes: Uint8Array) => void;
  /** Called when bytes can be written again after {@link write} accepted less than it got. */
  onDrain: () => void;
  /** Called once, when either side has closed the socket. Nothing follows. */
  onClose: () => void;
  /**
   * Sends bytes and returns how many of them were accepted, from the start; the caller may reuse the memory. Accepts nothing once the
   * socket is closed.
   */
  write(bytes: Uint8Array): number;
  /** How the other side or the way to it failed; continues "Worker pid 7 …". Without it, the other side has closed the socket. */
  readonly fate?: string | null;
  /** Asks whether the other side is still there, if the wire does not say so by itself: {@link onClose} follows if it is not. */
  probe?(): void;
  /** Closes the socket when all accepted bytes are sent. */
  end(): void;
  /** Closes the socket at once. */
  terminate(): void;
  /** Whether the socket keeps the process alive, which is the default. */
  ref(): void;
  unref(): void;
}

/** A listening socket. */
export interface DuplexListener {
  /** Accepts no more connections. Accepted connections stay open. */
  stop(): void;
  unref(): void;
}

/** The sockets of one runtime. */
export interface Sockets {
  /** Connects, then calls `opened` before any byte can arrive. Rejects with the error of the system: `code` is "ENOENT", …. */
  connect(path: string, opened: (duplex: Duplex) => void): Promise<void>;
  /** Listens, and calls `accepted` for each connection before any byte can arrive. @throws the error of the system */
  listen(path: string, accepted: (duplex: Duplex) => void): DuplexListener;
}

/** Number of bytes that are given to Node at once: it accepts any number, and keeps them. */
const PIECE_BYTES = 65_536;

const nothing = (): void => {};

/** A socket of Bun. */
export class BunDuplex implements Duplex {
  onData: (bytes: Uint8Array) => void = nothing;
  onDrain: () => void = nothing;
  onClose: () => void = nothing;
  readonly fd: number;
  readonly #socket: BunSocket<unknown>;

  constructor(socket: BunSocket<unknown>) {
    this.#socket = socket;
    this.fd = (socket as unknown as { fd?: number }).fd ?? -1; // exists, but not in Bun's types
  }

  write(bytes: Uint8Array): number {
    return Math.max(0, this.#socket.write(bytes));
  }

  end(): void {
    this.#socket.end();
  }

  terminate(): void {
    this.#socket.terminate();
  }

  ref(): void {
    this.#socket.ref();
  }

  unref(): void {
    this.#socket.unref();
  }
}

function bunHandler(opened: (duplex: Duplex) => void): SocketHandler<BunDuplex> {
  return {
    binaryType: "uint8array", // `slice` of a Buffer copies nothing
    open: (socket) => {
      socket.data = new BunDuplex(socket);
      opened(socket.data);
    },
    data: (socket, bytes) => socket.data.onData(bytes),
    drain: (socket) => socket.data.onDrain(),
    close: (socket) => socket.data?.onClose(), // without data: the connection was not opened
    error: nothing, // `close` follows
  };
}

/** Sockets of Bun. */
export const bunSockets: Sockets = {
  async connect(path, opened) {
    checkPath(path);
    await Bun.connect<BunDuplex>({ unix: path, socket: bunHandler(opened) });
  },
  listen(path, accepted) {
    checkPath(path);
    const listener = Bun.listen<BunDuplex>({ unix: path, socket: bunHandler(accepted) });
    return { stop: () => listener.stop(), unref: () => listener.unref() };
  },
};

/** A socket of `node:net`. */
class NodeDuplex implements Duplex {
  onData: (bytes: Uint8Array) => void = nothing;
  onDrain: () => void = nothing;
  onClose: () => void = nothing;
  readonly fd: number;
  readonly #socket: NodeSocket;
  /** Whether it accepts no bytes, because Node holds enough of them or the socket is closed. */
  #isFull = false;

  constructor(socket: NodeSocket) {
    this.#socket = socket;
    this.fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd ?? -1;
    socket.on("data", (bytes: Buffer) => this.onData(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length)));
    socket.on("drain", () => {
      this.#isFull = false;
      this.onDrain();
    });
    socket.on("close", () => {
      this.#isFull = true;
      this.onClose();
    });
    socket.on("error", nothing); // `close` follows
  }

  write(bytes: Uint8Array): number {
    let at = 0;
    while (at < bytes.length && !this.#isFull) {
      const copy = Buffer.from(bytes.subarray(at, at + PIECE_BYTES)); // Node keeps what the system does not take at once
      this.#isFull = !this.#socket.write(copy);
      at += copy.length;
    }
    return at;
  }

  end(): void {
    this.#socket.end();
  }

  terminate(): void {
    this.#socket.destroy();
  }

  ref(): void {
    this.#socket.ref();
  }

  unref(): void {
    this.#socket.unref();
  }
}

/** Sockets of `node:net`, under Node and under Bun. */
export const nodeSockets: Sockets = {
  connect(path, opened) {
    checkPath(path);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const socket = process.getBuiltinModule("node:net").connect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      opened(new NodeDuplex(socket));
      socket.off("error", reject);
      resolve();
    });
    return promise;
  },
  listen(path, accepted) {
    checkPath(path);
    const server = process.getBuiltinModule("node:net").createServer((socket) => accepted(new NodeDuplex(socket)));
    server.on("error", nothing); // a connection could not be accepted, or the error below
    server.listen({ path, exclusive: true }); // not through the primary process of a cluster
    if (!server.listening) throw new Error(`cannot listen at ${path}`);
    return { stop: () => server.close(), unref: () => server.unref() };
  },
};

/** Sockets of the runtime of this process. */
export const sockets: Sockets = typeof Bun === "undefined" ? nodeSockets : bunSockets;

function checkPath(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes <= SOCKET_PATH_BYTES) return;
  throw new InvalidConfigError(
    `The path of the socket has ${bytes} bytes, and ${SOCKET_PATH_BYTES} are allowed: ${path}`,
    {
      hint: "Choose a shorter directory, with `directory` or SLOTBUS_DIR.",
    },
  );
}
