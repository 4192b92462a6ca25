/** Ids of requests and of WebSockets: unique across hubs. */

const REQUEST_ID = /^[\w.:-]{1,128}$/;

export class Ids {
  readonly #prefix = Buffer.from(crypto.getRandomValues(new Uint8Array(9))).toString("base64url");
  #last = 36 ** 5; // starts here so that ids keep one length for a long time

  next(): string {
    return `${this.#prefix}.${(++this.#last).toString(36)}`;
  }

  /** Returns the id that a client has given, if it is short plain text, else a new one. */
  of(given: string | null): string {
    return given !== null && REQUEST_ID.test(given) ? given : this.next();
  }
}
