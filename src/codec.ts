/** Codecs: they turn values into bodies and back. */

import { InvalidConfigError } from "./errors.ts";

/** Encodes and decodes values. `Uint8Array` and `undefined` are sent unchanged, without the codec. */
export interface Codec {
  /** Content type, by which each side checks that both use the same codec: `"application/msgpack"`. */
  readonly contentType: string;
  /** Encodes a value; text is sent as UTF-8. If it throws, the call fails and nothing is sent. */
  encode(value: unknown): Uint8Array | string;
  /** Decodes bytes, which it may keep. They may be part of a larger buffer. May throw. */
  decode(bytes: Uint8Array): unknown;
}

/** Content type of a body that the contract declares as `Uint8Array`. */
export const BYTES_TYPE = "application/octet-stream";
/** Content type of a stream of items. */
export const ITEMS_TYPE = "application/vnd.slotbus.items";
/** Content type of a response that carries an error. */
export const FAILURE_TYPE = "application/vnd.slotbus.failure";

const decoder = new TextDecoder("utf-8", { fatal: true });

/** The default codec. */
export const json: Codec = {
  contentType: "application/json",
  encode(value) {
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined) throw new TypeError(`JSON cannot represent a ${typeof value}.`);
    return text;
  },
  decode: (bytes) => JSON.parse(decoder.decode(bytes)),
};

const reserved = new Set(["", BYTES_TYPE, ITEMS_TYPE, FAILURE_TYPE]);

/** Returns `codec` if it is a valid codec, else throws {@link InvalidConfigError}. */
export function checkCodec(codec: Codec): Codec {
  const { contentType, encode, decode } = (codec ?? {}) as Codec;
  if (typeof contentType !== "string" || typeof encode !== "function" || typeof decode !== "function") {
    throw new InvalidConfigError("A codec needs `contentType`, `encode` and `decode`.");
  }
  if (reserved.has(contentType) || !/^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(contentType)) {
    throw new InvalidConfigError(`A codec cannot have the content type ${JSON.stringify(contentType)}.`);
  }
  return codec;
}
