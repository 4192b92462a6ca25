/** A worker over NATS that is written from docs/nats.md alone, and that can break its rules. Imports nothing of slotbus. */

import { connect, type Msg, type NatsConnection } from "@nats-io/transport-node";

const HEADER = 12;
const MAGIC = 0x0053_5542_5430_4c53n;

/** A message of a connection that is about to be sent. A rule is broken by changing it. */
export interface Outgoing {
  kind: number;
  number: number;
  acknowledged: number;
  bytes: Uint8Array;
}

const id = (): string => crypto.randomUUID().replaceAll("-", "");

export class DocWorker implements AsyncDisposable {
  /** Called with each request: the number of its exchange, and its path. */
  onRequest: (exchange: number, path: string) => void = () => {};
  /** Changes the next message. */
  spoil: ((message: Outgoing) => void) | null = null;
  /** Answers nothing more, not even signs of life. */
  isMute = false;
  readonly #connection: NatsConnection;
  readonly #base: string;
  readonly #id = id();
  readonly #own: string;
  #target = "";
  #sent = 0;
  #handled = 0;
  #bytes: Buffer = Buffer.alloc(0);
  #isWelcome = false;
  isOver = false;

  static async open(url: string, name: string): Promise<DocWorker> {
    const connection = await connect({ servers: url });
    const worker = new DocWorker(connection, name);
    await connection.flush();
    return worker;
  }

  private constructor(connection: NatsConnection, name: string) {
    this.#connection = connection;
    this.#base = `slotbus.${name}`;
    this.#own = `${this.#base}.w.${this.#id}.${id()}`;
    connection.subscribe(this.#own, { callback: (_, message) => this.#message(message) });
    connection.subscribe(`${this.#base}.w.${this.#id}`, { callback: (_, message) => this.#join(message.string()) });
    connection.publish(`${this.#base}.c`, "", { reply: `${this.#base}.w.${this.#id}` });
  }

  #join(client: string): void {
    if (this.#target !== "") return;
    this.#target = `${this.#base}.c.${client}`;
    const join = Buffer.alloc(26);
    join[0] = 1;
    join[1] = 24;
    join.writeBigUInt64LE(MAGIC, 2);
    join.writeUInt16LE(2, 10);
    join.writeUInt16LE(2, 12);
    join.writeUInt32LE(1, 14);
    join.writeUInt32LE(4, 18); // requests at once
    join.writeUInt32LE(1, 22);
    this.send(join);
  }

  #message(message: Msg): void {
    const { data, headers } = message;
    if (headers?.code === 503 || data[0] === 2) this.isOver = true;
    if (headers?.code === 503 || data.length === HEADER) return;
    if (this.#sent === 1) this.#target = message.reply!;
    this.#handled += data.length - HEADER;
    this.#bytes = Buffer.concat([this.#bytes, data.subarray(HEADER)]);
    if (!this.#isWelcome) {
      if (this.#bytes.length < 34 || this.#bytes[0] !== 8) return;
      this.#isWelcome = true;
      this.#bytes = this.#bytes.subarray(34);
      this.send(Buffer.from([3, 4, 7, 0, 0, 0])); // ATTACHED, process 7
    }
    for (;;) {
      if (this.#bytes.length < 12) return;
      const size = this.#bytes.readUInt32LE(4);
      if (this.#bytes.length < 12 + size) return;
      const [type, exchange] = [this.#bytes[0]!, this.#bytes.readUInt32LE(8)];
      const frame = this.#bytes.subarray(12, 12 + size);
      this.#bytes = this.#bytes.subarray(12 + size);
      if (type === 10) this.frame(11, 0, exchange, new Uint8Array(0));
      if (type !== 1) continue;
      const head = frame.subarray(24);
      const count = head.readUInt16LE(0);
      const text = head.subarray(4 + count).toString("latin1"); // each length is one byte here
      this.onRequest(exchange, text.slice(0, head[4]!));
    }
  }

  /** Sends bytes of the stream. */
  send(bytes: Uint8Array): void {
    if (this.isMute) return;
    const message = { kind: 1, number: ++this.#sent, acknowledged: this.#handled, bytes };
    this.spoil?.(message);
    this.spoil = null;
    const whole = Buffer.alloc(HEADER + message.bytes.length);
    whole[0] = message.kind;
    whole.writeUInt32LE(message.number, 4);
    whole.writeUInt32LE(message.acknowledged, 8);
    whole.set(message.bytes, HEADER);
    this.#connection.publish(this.#target, whole, { reply: this.#own });
  }

  frame(type: number, flags: number, exchange: number, bytes: Uint8Array): void {
    const frame = Buffer.alloc(12 + bytes.length);
    frame[0] = type;
    frame[1] = flags;
    frame.writeUInt32LE(bytes.length, 4);
    frame.writeUInt32LE(exchange, 8);
    frame.set(bytes, 12);
    this.send(frame);
  }

  /** Sends a whole response of type text/plain. */
  respond(exchange: number, body: string): void {
    const type = "text/plain";
    const head = Buffer.from([1, 0, 0, 0, type.length, ...Buffer.from(type)]);
    const fixed = Buffer.alloc(12);
    fixed.writeUInt16LE(200, 0);
    fixed.writeUInt32LE(head.length, 4);
    fixed.writeUInt32LE(Buffer.byteLength(body), 8);
    this.frame(2, 0, exchange, Buffer.concat([fixed, head, Buffer.from(body)]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#connection.close();
  }
}
