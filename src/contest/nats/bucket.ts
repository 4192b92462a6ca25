/**
 * The key-value bucket of a fleet's leases in JetStream. The stream starts at a sequence that no earlier stream of this name has
 * reached, so that the revision of a claim is a fencing token, and a revision of an earlier stream never fits.
 */

import type { Msg, MsgHdrs } from "@nats-io/transport-node";
import { SlotbusError, UnsupportedError } from "../../errors.ts";
import type { NatsFleet } from "../../fleet/nats.ts";
import { bucketOf, decodeRecord, type LeaseRecord } from "./record.ts";

/** Oldest server with a ttl for each message and markers of expiry that follow it, as numbers. */
const OLDEST = [2, 11, 2] as const;
/** Lowest first sequence of a stream that slotbus created: microseconds since 1970. */
const EPOCH_MIN = 2 ** 50;
/** Time that the server keeps the marker of an ended lease, in seconds. */
const MARKER_S = 1;
/** Longest wait for an answer of the server, in ms. */
export const ANSWER_MS = 2_000;

const NO_STREAM = 10_059;
const OTHER_STREAM = 10_058;
const NO_MESSAGE = 10_037;
const NO_JETSTREAM = [10_039, 10_076];
const WRONG_SEQUENCE = [10_071, 10_164];

/** The present state of a key: a lease, its end, or (both `null`) a value that is not a lease. */
export interface Entry {
  readonly key: string;
  readonly revision: number;
  /** When the server stored it, by its wall clock, in ms. */
  readonly written: number;
  readonly record: LeaseRecord | null;
  readonly end: "released" | "expired" | null;
}

interface Answer {
  readonly error?: { readonly code?: number; readonly err_code?: number; readonly description?: string };
  readonly seq?: number;
}

interface StreamAnswer extends Answer {
  readonly config?: Readonly<Record<string, unknown>>;
}

export class Bucket {
  readonly fleet: NatsFleet;
  /** Name of the stream, for messages and for its API. */
  readonly stream: string;
  /** First part of the subjects of keys. */
  readonly subject: string;
  readonly #headers: () => MsgHdrs;
  /** Fail the requests under way when the connection is lost. */
  readonly #underWay = new Set<(error: Error) => void>();
  readonly #unwatch: () => void;
  /** Highest revision that this process has written. */
  #highest = 0;

  /** Opens the bucket, and creates it if there is none. @throws (rejects) {UnsupportedError}; `CLAIM_BUCKET`; `DISCONNECTED` */
  static async open(fleet: NatsFleet): Promise<Bucket> {
    const { headers } = await fleet.link.library();
    checkVersion(fleet.connection.info?.version ?? "0");
    const bucket = new Bucket(fleet, headers);
    try {
      await bucket.ensure();
    } catch (error) {
      bucket.close();
      throw error;
    }
    return bucket;
  }

  private constructor(fleet: NatsFleet, headers: () => MsgHdrs) {
    const bucket = bucketOf(fleet.link.prefix, fleet.name);
    this.fleet = fleet;
    this.stream = `KV_${bucket}`;
    this.subject = `$KV.${bucket}.`;
    this.#headers = headers;
    this.#unwatch = fleet.link.watch((isConnected) => {
      if (!isConnected) for (const fail of this.#underWay) fail(new Error("the connection was lost"));
    });
  }

  /** Stops following the connection. */
  close(): void {
    this.#unwatch();
  }

  /**
   * Writes a lease if the last revision of its key is `expected` (0: there is none). Returns the new revision, or `null` if the key
   * has another last revision.
   *
   * @throws (rejects) `DISCONNECTED` if nothing was sent; `CLAIM_UNCONFIRMED`; `PERMISSION_DENIED`
   */
  put(key: string, value: string, seconds: number, expected: number): Promise<number | null> {
    return this.#write(key, value, { "Nats-TTL": `${seconds}s` }, expected);
  }

  /** Ends the lease with the revision `expected`, as {@link put} writes it: a marker takes its place and then goes by itself. */
  end(key: string, expected: number): Promise<number | null> {
    const marker = { "Nats-TTL": `${MARKER_S}s`, "KV-Operation": "PURGE", "Nats-Rollup": "sub" };
    return this.#write(key, "", marker, expected);
  }

  /** Reads a key from the leader of the stream. @throws (rejects) as {@link put} */
  async read(key: string): Promise<Entry | null> {
    const answer = (await this.api("STREAM.MSG.GET", "", { last_by_subj: this.subject + key })) as Answer & {
      message?: { seq: number; time: string; hdrs?: string; data?: string };
    };
    const { message } = answer;
    if (answer.error?.err_code === NO_MESSAGE) return null;
    if (!message) throw this.#failure(answer);
    const head = message.hdrs ? Buffer.from(message.hdrs, "base64").toString() : "";
    const field = (name: string): string => new RegExp(`^${name}: *(.*)$`, "im").exec(head)?.[1]?.trim() ?? "";
    const value = Buffer.from(message.data ?? "", "base64").toString();
    return entryOf(key, message.seq, Date.parse(message.time), field, value);
  }

  /** Asks the API of JetStream. `name` follows the name of the stream. @throws (rejects) as {@link put} */
  async api(what: string, name: string, body: unknown): Promise<Answer> {
    const subject = `$JS.API.${what}.${this.stream}${name && `.${name}`}`;
    return (await this.#ask(subject, body === null ? "" : JSON.stringify(body))).json<Answer>();
  }

  /** Returns the error of an answer. */
  #failure({ error }: Answer): SlotbusError {
    const { description = "the answer of the server makes no sense", err_code = 0 } = error ?? {};
    if (NO_JETSTREAM.includes(err_code)) return noJetStream();
    if (err_code === NO_STREAM) return this.unconfirmed(new Error("the stream is gone"));
    return new SlotbusError("RESOURCE", `The NATS server refused the stream ${this.stream}: ${description}.`, {
      hint: "Check the limits of JetStream on the server, with `nats account info` and `nats stream info`.",
    });
  }

  async #write(key: string, value: string, head: Record<string, string>, expected: number): Promise<number | null> {
    const headers = this.#headers();
    for (const name in head) headers.set(name, head[name]!);
    headers.set("Nats-Expected-Last-Subject-Sequence", String(expected));
    const answer = (await this.#ask(this.subject + key, value, headers)).json<Answer>();
    if (WRONG_SEQUENCE.includes(answer.error?.err_code ?? 0)) return null;
    if (answer.error || !Number.isSafeInteger(answer.seq)) throw this.#failure(answer);
    this.#highest = Math.max(this.#highest, answer.seq!);
    return answer.seq!;
  }

  /** Resolves with the answer; rejects as soon as the connection is lost. */
  async #ask(subject: string, body: string, headers?: MsgHdrs): Promise<Msg> {
    const { connection } = this.fleet; // throws: nothing was sent
    const { promise, reject } = Promise.withResolvers<never>();
    this.#underWay.add(reject);
    try {
      const options = headers ? { timeout: ANSWER_MS, headers } : { timeout: ANSWER_MS };
      return await Promise.race([connection.request(subject, body, options), promise]);
    } catch (cause) {
      throw this.#denied(cause as Error) ?? this.unconfirmed(cause as Error);
    } finally {
      this.#underWay.delete(reject);
    }
  }

  /** Returns the error of a request that this user may not make, or whose answer this user may not read; else `null`. */
  #denied(cause: Error): SlotbusError | null {
    const [, what] = /permissions violation for (publish|subscription)/i.exec(cause.message) ?? [];
    if (what === undefined) return null;
    const message = `The NATS server does not let this user claim leases in the stream ${this.stream}: ${cause.message}.`;
    return new SlotbusError("PERMISSION_DENIED", message, {
      hint: "Give the user the permissions for claims that docs/nats.md lists.",
      mayHaveExecuted: what.toLowerCase() === "subscription",
      cause,
    });
  }

  unconfirmed(cause: Error): SlotbusError {
    if (/no responders/.test(cause.message))
      cause = new Error("nothing listens for it: JetStream is off, or the stream is gone");
    const message = `The NATS server did not confirm a request to the stream ${this.stream}: ${cause.message}.`;
    return new SlotbusError("CLAIM_UNCONFIRMED", message, {
      hint: "Check the server and its JetStream, then try again.",
      mayHaveExecuted: true,
      cause,
    });
  }

  // ---- the stream -----------------------------------------------------------------------------------------------------

  /** Creates the stream if there is none, and checks its settings. @throws (rejects) as {@link open} */
  async ensure(): Promise<void> {
    const found = await this.#info();
    if (found) return this.#check(found);
    const { info } = this.fleet.connection;
    const replicas = info?.cluster ? 3 : 1;
    const wanted = {
      name: this.stream,
      subjects: [`${this.subject}>`],
      storage: "file",
      retention: "limits",
      discard: "new",
      max_msgs_per_subject: 1,
      num_replicas: replicas,
      allow_msg_ttl: true,
      subject_delete_marker_ttl: MARKER_S * 1e9,
      allow_rollup_hdrs: true,
      allow_direct: true,
      deny_delete: true,
      first_seq: Math.max(Date.now() * 1_000, this.#highest + 1),
    };
    const made: StreamAnswer = await this.api("STREAM.CREATE", "", wanted);
    if (!made.error && made.config) return this.#check(made.config);
    const existing = made.error?.err_code === OTHER_STREAM ? await this.#info() : null; // another process was faster
    if (!existing) throw this.#failure(made);
    this.#check(existing);
  }

  async #info(): Promise<Readonly<Record<string, unknown>> | null> {
    const answer: StreamAnswer = await this.api("STREAM.INFO", "", null).catch((error: SlotbusError) => {
      throw /nothing listens/.test(error.message) ? noJetStream() : error;
    });
    if (answer.error?.err_code === NO_STREAM) return null;
    if (!answer.config) throw this.#failure(answer);
    return answer.config;
  }

  /** Throws unless claims can rely on the settings of the stream. */
  #check(config: Readonly<Record<string, unknown>>): void {
    const wanted: Record<string, (value: unknown) => boolean> = {
      subjects: (value) => Array.isArray(value) && value.length === 1 && value[0] === `${this.subject}>`,
      max_msgs_per_subject: (value) => value === 1,
      allow_msg_ttl: (value) => value === true,
      subject_delete_marker_ttl: (value) => typeof value === "number" && value > 0,
      allow_rollup_hdrs: (value) => value === true,
      retention: (value) => value === "limits",
      max_age: (value) => !value,
      mirror: (value) => !value,
      sealed: (value) => !value,
      first_seq: (value) => typeof value === "number" && value >= EPOCH_MIN && Number.isSafeInteger(value),
    };
    const wrong = Object.keys(wanted).filter((name) => !wanted[name]!(config[name]));
    if (wrong.length === 0) return;
    const has = wrong.map((name) => `${name} is ${JSON.stringify(config[name])}`).join(", ");
    throw new SlotbusError("CLAIM_BUCKET", `The stream ${this.stream} was not created for leases: ${has}.`, {
      hint: "Delete it, or use another `prefix` or fleet name. slotbus creates its stream itself.",
    });
  }
}

/** Returns the entry of a key. `field` returns a header, or empty text. */
export function entryOf(
  key: string,
  revision: number,
  written: number,
  field: (name: string) => string,
  value: string,
): Entry {
  const operation = field("KV-Operation");
  const end =
    field("Nats-Marker-Reason") === "MaxAge" ? "expired" : operation !== "" || value === "" ? "released" : null;
  const record = end === null ? decodeRecord(value) : null;
  return { key, revision, written: Number.isFinite(written) ? written : 0, record, end };
}

/** Fencing token of a lease: the revision of its claim. */
export function tokenOf({ record, revision }: Entry): number {
  return record?.token || revision;
}

/** @throws {UnsupportedError} if the server of this version cannot keep leases */
export function checkVersion(version: string): void {
  const found = version.split(/[.-]/).map(Number);
  const at = OLDEST.findIndex((part, i) => (found[i] ?? 0) !== part);
  if (at < 0 || (found[at] ?? 0) > OLDEST[at]!) return;
  throw new UnsupportedError(
    `Claims need a NATS server of version ${OLDEST.join(".")} or later; this one is ${version}.`,
    {
      hint: "Install a newer nats-server.",
    },
  );
}

function noJetStream(): UnsupportedError {
  return new UnsupportedError("Claims need JetStream, which is off on this NATS server or for this account.", {
    hint: "Start the server with `nats-server --jetstream`, or enable JetStream for the account.",
  });
}
