/** One connection to the hub, without a client's library: a library may send a request twice. */

import { connect, type Socket } from "node:net";

/** Receives the response to a request, in this order. `end` has `false` if the connection closed before the response's end. */
export interface Receiver {
  head(status: number, headers: ReadonlyMap<string, string>): void;
  bytes(part: Buffer): void;
  end(isWhole: boolean): void;
}

const NONE: Buffer = Buffer.alloc(0);

export class Connection {
  readonly #socket: Socket;
  readonly #opened = Promise.withResolvers<boolean>();
  #rest: Buffer = NONE;
  #receiver: Receiver | null = null;
  /** What the next byte belongs to. `past`: the CRLF after a chunk. */
  #place: "head" | "size" | "chunk" | "past" | "body" = "head";
  #left = 0;
  isOpen = false;
  /** Bytes arrived that belong to no request. */
  hasExtra = false;

  constructor(port: number) {
    this.#socket = connect(port, "127.0.0.1");
    this.#socket.setNoDelay(true);
    this.#socket.on("connect", () => {
      this.isOpen = true;
      this.#opened.resolve(true);
    });
    this.#socket.on("data", (data: Buffer) => this.#take(data));
    this.#socket.on("error", () => this.close());
    this.#socket.on("close", () => this.#closed());
  }

  /** Resolves to whether the hub has accepted the connection. */
  get opened(): Promise<boolean> {
    return this.#opened.promise;
  }

  /** Sends a part of a request; a request begins with its `receiver`. */
  send(bytes: string | Uint8Array, receiver?: Receiver): void {
    if (receiver) this.#receiver = receiver;
    if (this.isOpen) this.#socket.write(bytes);
    else this.#closed();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Closes it; its receiver gets the end, which is not whole. */
  close(): void {
    this.#socket.destroy();
    this.#closed();
  }

  #closed(): void {
    this.isOpen = false;
    this.#opened.resolve(false);
    this.#end(false);
  }

  #end(isWhole: boolean): void {
    const receiver = this.#receiver;
    this.#receiver = null;
    this.#place = "head";
    receiver?.end(isWhole);
  }

  #take(data: Buffer): void {
    this.#rest = this.#rest.length === 0 ? data : Buffer.concat([this.#rest, data]);
    while (this.#receiver !== null && this.#step());
    if (this.#receiver === null && this.#rest.length > 0 && this.isOpen) this.hasExtra = true;
  }

  /** Takes the next part of the response. Returns `false` if it has not arrived. */
  #step(): boolean {
    if (this.#place === "head") return this.#head();
    if (this.#place === "size") return this.#size();
    if (this.#place === "past") {
      if (this.#rest.length < 2) return false;
      this.#rest = this.#rest.subarray(2);
      this.#place = "size";
      return true;
    }
    const part = this.#rest.subarray(0, this.#left);
    if (part.length === 0 && this.#left > 0) return false;
    this.#rest = this.#rest.subarray(part.length);
    this.#left -= part.length;
    this.#receiver!.bytes(part);
    if (this.#left > 0) return false;
    if (this.#place === "body") this.#end(true);
    else this.#place = "past";
    return true;
  }

  #head(): boolean {
    const end = this.#rest.indexOf("\r\n\r\n");
    if (end < 0) return false;
    const [first = "", ...lines] = this.#rest.toString("latin1", 0, end).split("\r\n");
    this.#rest = this.#rest.subarray(end + 4);
    const headers = new Map(lines.map((line) => [line.split(":")[0]!.toLowerCase(), line.replace(/^[^:]*: */, "")]));
    this.#receiver!.head(Number(first.split(" ")[1]), headers);
    this.#left = Number(headers.get("content-length") ?? 0);
    this.#place = headers.get("transfer-encoding") === "chunked" ? "size" : "body";
    return true;
  }

  #size(): boolean {
    const end = this.#rest.indexOf("\r\n");
    if (end < 0) return false;
    this.#left = Number.parseInt(this.#rest.toString("latin1", 0, end), 16);
    if (this.#left > 0) this.#place = "chunk";
    else if (this.#rest.length < end + 4) return false;
    this.#rest = this.#rest.subarray(this.#left > 0 ? end + 2 : end + 4);
    if (this.#left === 0) this.#end(true);
    return true;
  }
}
