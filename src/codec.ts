/** How values become bodies. */

import { InvalidConfigError } from "./errors.ts";

/** Turns values into bytes and back. Bytes (`Uint8Array`) and `undefined` never reach it: they travel as they are. */
export interface Codec {
  /** Tells the two sides whether they use the same one: `"application/msgpack"`. */
  readonly contentType: string;
  /** Text is sent as UTF-8. May throw: the call fails, nothing is sent. */
  encode(value: unknown): Uint8Array | string;
  /** The bytes may be kept, and may be part of a larger buffer. May throw. */
  decode(bytes: Uint8Array): unknown;
}

/** Content type of a body that is a `Uint8Array` of the contract. */
export const BYTES_TYPE = "application/octet-stream";
/** Content type of a body of items. */
export const ITEMS_TYPE = "application/vnd.slotbus.items";
/** Content type of an answer that says why there is none. */
export const FAILURE_TYPE = "application/vnd.slotbus.failure";

const decoder = new TextDecoder("utf-8", { fatal: true });

/** The default codec. */
export const json: Codec = {
  contentType: "application/json",
  encode(value) {
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined) throw new TypeError(`JSON has no ${typeof value}`);
    return text;
  },
  decode: (bytes) => JSON.parse(decoder.decode(bytes)),
};

const reserved = new Set(["", BYTES_TYPE, ITEMS_TYPE, FAILURE_TYPE]);

/** Throws {@link InvalidConfigError} unless it is one. */
export function checkCodec(codec: Codec): Codec {
  const { contentType, encode, decode } = (codec ?? {}) as Codec;
  if (typeof contentType !== "string" || typeof encode !== "function" || typeof decode !== "function") {
    throw new InvalidConfigError("a codec needs `contentType`, `encode` and `decode`.");
  }
  if (reserved.has(contentType) || !/^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(contentType)) {
    throw new InvalidConfigError(`a codec cannot have the content type ${JSON.stringify(contentType)}.`);
  }
  return codec;
}
