/**
 * What a worker wants done with WebSocket connections, as bytes: in the response to a message, on the control socket, and in the
 * ring of a shared hub. A command is its code, the length of its key, the length of its content, the key, and the content.
 */

import { SlotbusError } from "../errors.ts";
import { fast } from "../fast-buffer.ts";

/** Codes of commands. The key of `publish…` is a topic; every other key is the id of a connection, `""`: the one that asks. */
export const SEND_TEXT = 1;
export const SEND_BINARY = 2;
/** The content begins with the length and the id of the connection that does not get the message. */
export const PUBLISH_TEXT = 3;
export const PUBLISH_BINARY = 4;
/** The content is a topic. */
export const SUBSCRIBE = 5;
export const UNSUBSCRIBE = 6;
/** The content is the code, in 2 bytes, and the reason. */
export const CLOSE = 7;
/** The content is the data of the connection, as JSON. */
export const DATA = 8;
/** In the response to a handshake: further messages go to this process while it lives. */
export const PIN = 9;

/** Content type of the response to an accepted handshake. */
export const ACCEPTED = "application/x-slotbus-socket";
/** Status of a process that does not have the connection. */
export const UNKNOWN = 421;
/** Path of a request that brings a message of a connection to a worker. Clients cannot request it. */
export const SOCKET_PATH = "/__ws__";
/** Header of a handshake: the id of the connection. The hub removes a client's. */
export const CONNECTION = "slotbus-connection";
/** Header of a message: the data of its connection, as JSON. */
export const DATA_HEADER = "data";
/** Path of the control socket that takes commands. */
export const COMMANDS_PATH = "/internal/sockets";

/** Largest message of a worker, largest topic or id, and largest data of a connection, in bytes. */
export const SENT_MAX = 2 << 20;
export const KEY_MAX = 200;
export const DATA_MAX = 4_096;
/** Commands that are collected before they are sent, in bytes. With one more message they fit into a request of the control plane. */
export const BATCH_BYTES = 256 << 10;

const HEAD = 6;

/** Commands that wait to be sent. */
export class Commands {
  #parts: Uint8Array[] = [];
  /** Size of all commands. */
  bytes = 0;

  get isEmpty(): boolean {
    return this.bytes === 0;
  }

  /** Adds a command. `key` and `content` were checked. */
  add(code: number, key: string, content: string | Uint8Array): void {
    this.#push(encode(code, key, content));
  }

  addPublish(topic: string, message: string | Uint8Array, except: string): void {
    const own = Buffer.from(except);
    const text = typeof message === "string";
    const content = Buffer.concat([new Uint8Array([own.length]), own, text ? Buffer.from(message) : message]);
    this.add(text ? PUBLISH_TEXT : PUBLISH_BINARY, topic, content);
  }

  addClose(key: string, code: number, reason: string): void {
    this.add(CLOSE, key, Buffer.concat([new Uint8Array([code & 255, code >> 8]), Buffer.from(reason)]));
  }

  /** Removes and returns all commands. */
  take(): Uint8Array {
    const parts = this.#parts;
    const bytes = this.bytes;
    this.#parts = [];
    this.bytes = 0;
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts, bytes);
  }

  #push(part: Uint8Array): void {
    this.#parts.push(part);
    this.bytes += part.length;
  }
}

function encode(code: number, key: string, content: string | Uint8Array): Uint8Array {
  const keyBytes = key === "" ? 0 : Buffer.byteLength(key);
  const bytes = typeof content === "string" ? Buffer.byteLength(content) : content.length;
  const all = Buffer.allocUnsafe(HEAD + keyBytes + bytes);
  all[0] = code;
  all[1] = keyBytes;
  all.writeUInt32LE(bytes, 2);
  if (keyBytes > 0) fast.utf8Write.call(all, key, HEAD);
  if (typeof content !== "string") all.set(content, HEAD + keyBytes);
  else if (bytes > 0) fast.utf8Write.call(all, content, HEAD + keyBytes);
  return all;
}

/** One command. Its bytes are a view. */
export interface Command {
  code: number;
  key: string;
  content: Uint8Array;
}

/** Reads commands. @throws `PROTOCOL` for bytes that are not commands. */
export function* readCommands(bytes: Uint8Array): Generator<Command> {
  for (let at = 0; at < bytes.length;) {
    const keyAt = at + HEAD;
    if (keyAt > bytes.length) throw malformed();
    const contentAt = keyAt + bytes[at + 1]!;
    const end = contentAt + lengthAt(bytes, at + 2);
    const code = bytes[at]!;
    if (end > bytes.length || code < SEND_TEXT || code > PIN) throw malformed();
    const key = contentAt === keyAt ? "" : textOf(bytes, keyAt, contentAt);
    yield { code, key, content: bytes.subarray(contentAt, end) };
    at = end;
  }
}

/** Returns the start of the content if `bytes` are one command that sends a message to the connection that asks; else 0. */
export function onlyMessage(bytes: Uint8Array): number {
  const isMessage = bytes.length >= HEAD && bytes[1] === 0 && (bytes[0] === SEND_TEXT || bytes[0] === SEND_BINARY);
  return isMessage && lengthAt(bytes, 2) === bytes.length - HEAD ? HEAD : 0;
}

/** The id that a published message is not sent to, and the message. @throws `PROTOCOL` */
export function readPublished(content: Uint8Array): { except: string; message: Uint8Array } {
  const end = 1 + (content[0] ?? 0);
  if (content.length < end) throw malformed();
  return { except: textOf(content, 1, end), message: content.subarray(end) };
}

/** The code and the reason of a command that closes. @throws `PROTOCOL` */
export function readClose(content: Uint8Array): { code: number; reason: string } {
  if (content.length < 2) throw malformed();
  return { code: content[0]! | (content[1]! << 8), reason: textOf(content, 2, content.length) };
}

export function textOf(bytes: Uint8Array, start = 0, end = bytes.length): string {
  return fast.utf8Slice.call(bytes, start, end);
}

function lengthAt(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16)) + bytes[at + 3]! * 2 ** 24;
}

function malformed(): SlotbusError {
  return new SlotbusError("PROTOCOL", "The worker sent commands for WebSockets that cannot be read.", {
    mayHaveExecuted: true,
  });
}
